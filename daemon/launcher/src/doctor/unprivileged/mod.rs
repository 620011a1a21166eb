//! What doctor does without any capability over the host: the trials that need none, and every verdict. What took
//! root's rights comes as facts.

pub mod cgroups;
pub mod confine;
mod disk;
pub mod files;
mod ids;
pub mod network;

use std::fmt::Display;

use agentd_kernel::creds::NoHostRights;
use agentd_kernel::process::SingleThreaded;
use agentd_policy::wire::{Check, Status};

use super::apart::Tried;
use super::cgroups::Trial;
use crate::context::Context;

/// What was tried with root's rights, and in namespaces of a trial's own.
pub struct Facts {
    pub cgroups: Tried<Trial>,
    /// Of [`network::TRIALS`]; `None` where no process can be born into a session's group.
    pub network: Option<[Tried<()>; network::TRIALS.len()]>,
    /// Whether each of [`confine::NAMESPACES`] can be made.
    pub namespaces: [Tried<()>; confine::NAMESPACES.len()],
    pub files: Tried<files::Facts>,
    pub exec_watch: Tried<()>,
    pub memfd_noexec: Tried<()>,
    pub oom: Tried<()>,
}

/// The whole report.
pub fn checks(none: &NoHostRights, token: SingleThreaded, cx: &Context, facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel()];
    match &facts.cgroups {
        Ok(trial) => {
            checks.extend(trial.checks(none));
            checks.push(trial.birth());
        }
        Err(error) => checks.push(cgroups::lacking(error)),
    }
    checks.extend(confine::namespaces(&facts.namespaces));
    checks.extend(files::checks(&facts.files, cx.settings.config.state_dir.as_str()));
    checks.extend(disk::checks(cx));
    checks.extend(facts.network.as_ref().map(network::checks).unwrap_or_default());
    checks.extend(confine::checks(none, token, &cx.host, facts));
    checks.push(ids::pool(&cx.settings));
    checks
}

/// Says only which kernel it is.
fn kernel() -> Check {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    fine("kernel", format!("{} {} {}", text(name.sysname()), text(name.release()), text(name.machine())))
}

/// A facility that is there.
fn fine(name: impl Into<String>, found: impl Display) -> Check {
    let none = String::new;
    Check { name: name.into(), status: Status::Ok, found: found.to_string(), impact: none(), fix: none() }
}

/// A facility that is not.
fn lack(name: impl Into<String>, status: Status, found: impl Display, impact: &str, fix: &str) -> Check {
    Check { name: name.into(), status, found: found.to_string(), impact: impact.into(), fix: fix.into() }
}

/// One or the other.
fn verdict(
    name: impl Into<String>,
    tried: Result<impl Display, impl Display>,
    without: Status,
    impact: &str,
    fix: &str,
) -> Check {
    match tried {
        Ok(found) => fine(name, found),
        Err(found) => lack(name, without, found, impact, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::apart::Lack;

    #[test]
    fn what_is_there_needs_no_mend() {
        let tried: Tried<&str> = Ok("all");
        let check = verdict("x", tried, Status::Missing, "much", "do");
        assert_eq!((check.status, check.impact.as_str(), check.fix.as_str()), (Status::Ok, "", ""));
        let check = verdict("x", Err::<&str, _>(Lack::new("EPERM")), Status::Reduced, "much", "do");
        assert_eq!((check.status, check.fix.as_str()), (Status::Reduced, "do"));
    }
}
