//! What a session left in a directory that it had as it is, in one line for the person who works there next.

use agentd_policy::event::Finding;
use agentd_policy::names::SessionId;
use agentd_proto::v1::Exit;

/// How many paths the line names.
const NAMED: usize = 4;
/// The longest path that it names.
const MAX_PATH: usize = 160;
/// What shows the state of a repository without running what the session may have left: no hooks, no monitor, no
/// look into other repositories.
const SAFE: &str =
    "git --no-pager -c core.fsmonitor=false -c core.hooksPath=/dev/null status --ignore-submodules=all";

/// What was found so far.
#[derive(Default)]
pub struct Findings {
    named: Vec<String>,
    more: u64,
}

impl Findings {
    /// One finding more, and `more` besides.
    pub fn add(&mut self, path: &str, finding: Finding, more: u64) {
        if matches!(finding, Finding::Links(_)) {
            return;
        }
        self.more = self.more.saturating_add(more);
        if self.named.len() < NAMED {
            let path: String = path.chars().take(MAX_PATH).collect();
            self.named.push(format!("{path} ({})", finding.as_text()));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// `exit` with the line, if anything was found.
    pub fn noted(&self, mut exit: Exit, session: &SessionId) -> Exit {
        if self.named.is_empty() {
            return exit;
        }
        let more = match self.more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let line = format!(
            "it left what git or other programs may run as you: {}{more}; look first, without running it: \
             `agentctl events {session} --kind file.changed`, `{SAFE}`",
            self.named.join(", ")
        );
        add(&mut exit, &line);
        exit
    }
}

/// Adds `line` to the message of `exit`.
pub fn add(exit: &mut Exit, line: &str) {
    if !exit.message.is_empty() {
        exit.message.push_str("; ");
    }
    exit.message.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_one_bounded_line() {
        let session = SessionId::parse("0123456789ab").unwrap();
        let exit = || Exit { reason: "exited".into(), code: Some(0), ..Exit::default() };
        let mut left = Findings::default();
        assert_eq!(left.noted(exit(), &session).message, "");
        left.add("/w/.env", Finding::Links(2), 0);
        assert_eq!(left.noted(exit(), &session).message, "");
        for number in 0..10 {
            left.add(&format!("/w/{number}/{}", "x".repeat(9000)), Finding::Repository, 0);
        }
        left.add("/w/.envrc", Finding::RunsLater, 5);
        let message = left.noted(exit(), &session).message;
        assert!(
            message.contains("/w/0/") && message.contains("and 12 more") && message.len() < 2000,
            "{message}"
        );
    }
}
