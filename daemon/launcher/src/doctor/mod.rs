//! What the host offers to sessions: every facility is tried for real, in a short-lived child, and nothing of
//! the trial is left. A version number is shown and decides nothing.

mod apart;
mod cgroups;
mod confine;
mod disk;
mod files;
mod ids;
mod network;

use std::fmt::{Display, Formatter};

use agentd_kernel::process::SingleThreaded;
use agentd_policy::wire::{Check, Status};

use crate::context::Context;

/// Tries every facility, for the user `uid`. Runs in a child of the launcher, as root; takes some seconds at most, and
/// at worst five for each facility.
pub fn examine(cx: &Context, uid: u32) -> Vec<Check> {
    let token = match SingleThreaded::verify() {
        Ok(token) => token,
        Err(error) => {
            return vec![lack("doctor", Status::Missing, error, "nothing could be tried", "ask again")];
        }
    };
    let mut checks = vec![kernel()];
    let mut trial = cgroups::Trial::make(cx.cgroups.root.as_deref());
    let mut network = Vec::new();
    match &mut trial {
        Ok(trial) => {
            // First: a group that was killed once takes nobody in who is born elsewhere, on some kernels.
            let birth = trial.takes_in(token);
            if birth.status == Status::Ok {
                network = network::checks(token, trial);
            }
            checks.extend(trial.checks(token));
            checks.push(birth);
        }
        Err(lack) => checks.push(lack.clone()),
    }
    checks.extend(confine::namespaces(token));
    checks.extend(files::checks(token, cx, uid));
    checks.extend(disk::checks(cx));
    checks.extend(network);
    checks.extend(confine::checks(token, &cx.host));
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
fn fine(name: impl Into<String>, found: impl std::fmt::Display) -> Check {
    let none = String::new;
    Check { name: name.into(), status: Status::Ok, found: found.to_string(), impact: none(), fix: none() }
}

/// A facility that is not.
fn lack(
    name: impl Into<String>,
    status: Status,
    found: impl std::fmt::Display,
    impact: &str,
    fix: &str,
) -> Check {
    Check { name: name.into(), status, found: found.to_string(), impact: impact.into(), fix: fix.into() }
}

/// One or the other.
fn verdict(
    name: impl Into<String>,
    tried: Result<String, Lack>,
    without: Status,
    impact: &str,
    fix: &str,
) -> Check {
    match tried {
        Ok(found) => fine(name, found),
        Err(found) => lack(name, without, found, impact, fix),
    }
}

/// Why a facility is not there, for the report: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack(String);

impl Lack {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    fn on(object: impl Display, error: impl Display) -> Self {
        Self(format!("{object}: {error}"))
    }
}

impl<E: std::error::Error> From<E> for Lack {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Display for Lack {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_needs_no_mend() {
        let check = verdict("x", Ok("all".into()), Status::Missing, "much", "do");
        assert_eq!((check.status, check.impact.as_str(), check.fix.as_str()), (Status::Ok, "", ""));
        let check = verdict("x", Err(Lack::new("EPERM")), Status::Reduced, "much", "do");
        assert_eq!((check.status, check.fix.as_str()), (Status::Reduced, "do"));
    }
}
