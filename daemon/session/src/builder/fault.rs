//! Why a session is not built.

use std::borrow::Cow;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;

use crate::error::HostError;
use crate::keeper::NotConfined;

/// A step that could not be done in full; the session is not built.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A step failed on an object: the host's administrator has to look.
    #[error("{object}: {cause}")]
    Host {
        step: Step,
        /// A path, a name or a facility.
        object: String,
        cause: HostError,
    },
    /// A step failed in init, which says why.
    #[error("init: {why}")]
    Init {
        step: Step,
        /// In init's words.
        why: String,
    },
    /// The request breaks a rule: the caller can fix it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Fault {
    /// `step` failed on `object`.
    pub fn host(step: Step, object: &str, cause: impl Into<HostError>) -> Self {
        Self::Host { step, object: object.to_owned(), cause: cause.into() }
    }

    /// In `step`, `object` is not as it has to be.
    pub fn unfit(step: Step, object: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::host(step, object, HostError::unfit(why))
    }

    /// `object` breaks `rule`; the caller can fix it.
    pub fn caller(object: impl AsRef<str>, rule: Rule, hint: impl AsRef<str>) -> Self {
        Self::Refused(Refusal::new(object, rule, hint))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let step = match fault {
            Fault::Refused(refusal) => return refusal,
            Fault::Host { step, .. } | Fault::Init { step, .. } => step,
        };
        let hint = "see `agentctl doctor` and the launcher's log for what this host lacks";
        Self::new(fault.to_string(), Rule::Build(step), hint)
    }
}

impl From<NotConfined> for Fault {
    fn from(error: NotConfined) -> Self {
        match error {
            NotConfined::Init { step, why } => Self::Init { step, why },
            NotConfined::Host(cause) => Self::host(Step::Init, "init", cause),
        }
    }
}

/// Names the step and the object of an error.
pub trait At<T> {
    /// The error as a fault of the host.
    fn at(self, step: Step, object: &str) -> Result<T, Fault>;
}

impl<T, E: Into<HostError>> At<T> for Result<T, E> {
    fn at(self, step: Step, object: &str) -> Result<T, Fault> {
        self.map_err(|error| Fault::host(step, object, error))
    }
}

/// For tests, in debug builds alone: `AGENTD_FAULT=STEP:KIND` makes a step fail (`fail`), kill the process that
/// does it (`kill`), or never end (`hang`).
#[cfg(debug_assertions)]
mod injected {
    use std::sync::Mutex;

    use agentd_policy::step::Step;

    use super::Fault;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kind {
        Fail,
        Kill,
        Hang,
    }

    static ARMED: Mutex<Option<(Step, Kind)>> = Mutex::new(None);

    pub(super) fn parse(text: &str, steps: &[Step]) -> Option<(Step, Kind)> {
        let (step, kind) = text.split_once(':')?;
        let kind = match kind {
            "fail" => Kind::Fail,
            "kill" => Kind::Kill,
            "hang" => Kind::Hang,
            _ => return None,
        };
        Step::parse(step).filter(|step| steps.contains(step)).map(|step| (step, kind))
    }

    fn set(text: Option<&str>, steps: &[Step]) {
        if let Ok(mut armed) = ARMED.lock() {
            *armed = text.and_then(|text| parse(text, steps));
        }
    }

    /// Arms what the launcher's environment asks for, in a builder that is about to prepare.
    pub fn arm() {
        set(std::env::var("AGENTD_FAULT").ok().as_deref(), Step::PREPARE);
    }

    /// Arms what a request asks for.
    pub fn arm_by(plan: &agentd_policy::plan::Plan) {
        let text = plan.env.iter().find(|(name, _)| name == b"AGENTD_FAULT").map(|(_, value)| value);
        set(text.and_then(|value| std::str::from_utf8(value).ok()), Step::COMPLETE);
    }

    /// A step is done: the place where it can go wrong. With `kill` the caller is gone, with `hang` it stays here.
    pub fn here(step: Step) -> Result<(), Fault> {
        let armed = ARMED.lock().ok().and_then(|armed| *armed);
        match armed {
            Some((at, Kind::Fail)) if at == step => Err(Fault::unfit(step, "fault", "injected")),
            Some((at, Kind::Kill)) if at == step => {
                let own = rustix::process::getpid();
                // A keeper's filter may refuse that, but no crash.
                rustix::process::kill_process(own, rustix::process::Signal::KILL).ok();
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
    use agentd_policy::step::Step;

    use super::Fault;

    pub const fn arm() {}

    pub const fn arm_by(_: &agentd_policy::plan::Plan) {}

    #[inline(always)]
    pub const fn here(_: Step) -> Result<(), Fault> {
        Ok(())
    }
}

pub use injected::{arm, arm_by, here};

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::injected::{Kind, parse};
    use super::*;

    #[test]
    fn only_steps_that_exist_can_be_armed() {
        assert_eq!(parse("paths:kill", Step::COMPLETE), Some((Step::Paths, Kind::Kill)));
        assert_eq!(parse("prepare.init:hang", Step::PREPARE), Some((Step::PrepareInit, Kind::Hang)));
        for bad in ["", "paths", "paths:", "paths:burn", "prepare.init:fail", "nowhere:fail"] {
            assert_eq!(parse(bad, Step::COMPLETE), None, "{bad}");
        }
    }

    #[test]
    fn a_step_that_is_not_armed_passes() {
        assert!(here(Step::Workspace).is_ok());
    }
}
