//! What goes wrong while a session is built.

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;

/// A step that could not be done in full; the session is not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Fault(pub Refusal);

impl Fault {
    /// `step` failed on `object` because of `why`; the host's administrator has to look.
    pub fn host(step: &str, object: &str, why: impl std::fmt::Display) -> Self {
        let hint = "see `agentctl doctor` and the launcher's log for what this host lacks";
        Self(Refusal::new(format!("{object}: {why}"), of_step(step), hint))
    }

    /// `object` breaks `rule`; the caller can fix it.
    pub fn caller(object: impl AsRef<str>, rule: Rule, hint: impl AsRef<str>) -> Self {
        Self(Refusal::new(object, rule, hint))
    }
}

/// The rule of a step by its name; one that is unknown can only be init's.
pub fn of_step(step: &str) -> Rule {
    Rule::Build(Step::parse(step).unwrap_or(Step::Init))
}

/// Names the step and the object of an error.
pub trait At<T> {
    /// The error as a fault of the host.
    fn at(self, step: &str, object: &str) -> Result<T, Fault>;
}

impl<T, E: std::fmt::Display> At<T> for Result<T, E> {
    fn at(self, step: &str, object: &str) -> Result<T, Fault> {
        self.map_err(|e| Fault::host(step, object, e))
    }
}

/// For tests, in debug builds alone: `AGENTD_FAULT=STEP:KIND` makes a step fail (`fail`), kill the process that
/// does it (`kill`), or never end (`hang`).
#[cfg(debug_assertions)]
mod injected {
    use std::sync::Mutex;

    use super::Fault;
    use crate::builder::points::{COMPLETE, PREPARE};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kind {
        Fail,
        Kill,
        Hang,
    }

    static ARMED: Mutex<Option<(&'static str, Kind)>> = Mutex::new(None);

    pub(super) fn parse(text: &str, steps: &[&'static str]) -> Option<(&'static str, Kind)> {
        let (step, kind) = text.split_once(':')?;
        let kind = match kind {
            "fail" => Kind::Fail,
            "kill" => Kind::Kill,
            "hang" => Kind::Hang,
            _ => return None,
        };
        steps.iter().find(|known| **known == step).map(|step| (*step, kind))
    }

    fn set(text: Option<&str>, steps: &[&'static str]) {
        if let Ok(mut armed) = ARMED.lock() {
            *armed = text.and_then(|text| parse(text, steps));
        }
    }

    /// Arms what the launcher's environment asks for, in a builder that is about to prepare.
    pub fn arm() {
        set(std::env::var("AGENTD_FAULT").ok().as_deref(), PREPARE);
    }

    /// Arms what a request asks for.
    pub fn arm_by(plan: &agentd_policy::plan::Plan) {
        let text = plan.env.iter().find(|(name, _)| name == b"AGENTD_FAULT").map(|(_, value)| value);
        set(text.and_then(|value| std::str::from_utf8(value).ok()), COMPLETE);
    }

    /// A step is done: the place where it can go wrong. With `kill` the caller is gone, with `hang` it stays here.
    pub fn here(step: &str) -> Result<(), Fault> {
        let armed = ARMED.lock().ok().and_then(|armed| *armed);
        match armed {
            Some((at, Kind::Fail)) if at == step => Err(Fault::host(step, "fault", "injected")),
            Some((at, Kind::Kill)) if at == step => {
                let own = rustix::process::getpid();
                // A keeper's filter may refuse that, but no crash.
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                std::process::abort()
            }
            Some((at, Kind::Hang)) if at == step => loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            },
            _ => Ok(()),
        }
    }
}

/// Nothing of that in a release.
#[cfg(not(debug_assertions))]
mod injected {
    use super::Fault;

    pub const fn arm() {}

    pub const fn arm_by(_: &agentd_policy::plan::Plan) {}

    #[inline(always)]
    pub const fn here(_: &str) -> Result<(), Fault> {
        Ok(())
    }
}

pub use injected::{arm, arm_by, here};

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::injected::{Kind, parse};
    use super::*;
    use crate::builder::points::{COMPLETE, PREPARE};

    #[test]
    fn only_steps_that_exist_can_be_armed() {
        assert_eq!(parse("paths:kill", COMPLETE), Some(("paths", Kind::Kill)));
        assert_eq!(parse("prepare.init:hang", PREPARE), Some(("prepare.init", Kind::Hang)));
        for bad in ["", "paths", "paths:", "paths:burn", "prepare.init:fail", "nowhere:fail"] {
            assert_eq!(parse(bad, COMPLETE), None, "{bad}");
        }
    }

    #[test]
    fn a_step_that_is_not_armed_passes() {
        assert_eq!(here("workspace"), Ok(()));
    }
}
