//! What a session changed in copies of git's configuration and hooks that ended with it: the line
//! about it in the exit's message, and the commands that keep it.

use agentd_policy::event::Aside;
use agentd_policy::names::SessionId;
use agentd_proto::v1::{Exit, FileDetail};

use super::findings;
use crate::text::bounded;

/// How many names and commands the line has.
const NAMED: usize = 4;
/// The longest of each, in bytes.
const MAX_LENGTH: usize = 240;

/// What changed so far.
#[derive(Default)]
pub struct Changes {
    named: Vec<String>,
    commands: Vec<String>,
    more: u64,
}

impl Changes {
    /// One change more, and `more` besides.
    pub fn add(&mut self, path: &str, change: &Aside, more: u64) {
        self.more = self.more.saturating_add(more);
        let what = match change {
            Aside::Set { name, .. } | Aside::Unset { name } => name.as_str(),
            Aside::Hook | Aside::Unreadable => path,
        };
        let command = upstream(path, change);
        let room = self.named.len() < NAMED && what.len() <= MAX_LENGTH;
        match (room, command) {
            // Each command stands for what it names.
            (true, command) => {
                self.named.push(what.to_owned());
                self.commands.extend(command.filter(|command| command.len() <= MAX_LENGTH));
            }
            (false, _) => self.more = self.more.saturating_add(1),
        }
    }

    /// `exit` with the line, if anything changed.
    pub fn noted(&self, mut exit: Exit, session: &SessionId) -> Exit {
        if self.named.is_empty() && self.more == 0 {
            return exit;
        }
        let named = self.named.join(", ");
        let more = match (self.more, self.named.is_empty()) {
            (0, _) => String::new(),
            (more, true) => more.to_string(),
            (more, false) => format!(" and {more} more"),
        };
        let all = format!("`agentctl events {session} --kind file.changed`");
        let keep = match self.commands.as_slice() {
            [] => format!("see {all}"),
            commands => format!("to have it outside: `{}`; all: {all}", commands.join(" && ")),
        };
        let line =
            format!("what it changed of git's settings and hooks ended with it: {named}{more}; {keep}");
        findings::add(&mut exit, &line);
        exit
    }
}

/// The command that has a branch's upstream or a remote's place outside as well. Other changes are for a person to look
/// at, one by one.
fn upstream(path: &str, change: &Aside) -> Option<String> {
    let Aside::Set { name, value, upstream: true } = change else { return None };
    Some(format!("git config --file {} {} {}", quoted(path)?, quoted(name)?, quoted(value)?))
}

/// A word as a shell takes it; nothing if it has what a terminal would not show, or a backquote, which would seem to
/// end the command where it is shown.
fn quoted(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@+%,".contains(c);
    if text.chars().all(plain) && !text.is_empty() {
        return Some(text.to_owned());
    }
    let shown = text.chars().all(|c| c != '`' && (c.is_ascii_graphic() || c == ' '));
    shown.then(|| format!("'{}'", text.replace('\'', "'\\''")))
}

/// The event's detail.
pub fn detail(path: &str, change: Aside, more: u64) -> FileDetail {
    let (finding, setting, value) = match change {
        Aside::Set { name, value, .. } => {
            ("git's setting, set for the session alone", Some(name), Some(value))
        }
        Aside::Unset { name } => ("git's setting, unset for the session alone", Some(name), None),
        Aside::Hook => ("a git hook, changed for the session alone", None, None),
        Aside::Unreadable => ("the session's copy could not be read", None, None),
    };
    let (setting, value) = (setting.as_deref().map(bounded), value.as_deref().map(bounded));
    FileDetail { path: bounded(path), finding: finding.into(), more, setting, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(changes: &[Aside]) -> String {
        let mut all = Changes::default();
        changes.iter().for_each(|change| all.add("/home/u/my proj/.git/config", change, 0));
        all.noted(Exit::default(), &SessionId::parse("0123456789ab").unwrap()).message
    }

    fn set(name: &str, value: &str, upstream: bool) -> Aside {
        Aside::Set { name: name.into(), value: value.into(), upstream }
    }

    #[test]
    fn what_is_safe_comes_as_commands() {
        assert_eq!(noted(&[]), "");
        let message = noted(&[
            set("branch.main.remote", "origin", true),
            set("remote.o.fetch", "+refs/heads/*:refs/remotes/o/*", true),
            set("core.fsmonitor", "./x", false),
        ]);
        assert!(message.contains("branch.main.remote, remote.o.fetch, core.fsmonitor; "), "{message}");
        assert!(
            message.contains(
                "`git config --file '/home/u/my proj/.git/config' branch.main.remote origin && git config --file \
                 '/home/u/my proj/.git/config' remote.o.fetch '+refs/heads/*:refs/remotes/o/*'`"
            ),
            "{message}"
        );
        assert!(!message.contains("./x"), "{message}");
    }

    #[test]
    fn nothing_that_a_terminal_hides_is_in_a_command() {
        let message =
            noted(&[set("branch.a\u{202e}b.remote", "o", true), set("branch.it's.remote", "o", true)]);
        assert!(message.contains(r"'branch.it'\''s.remote' o`"), "{message}");
        assert_eq!(message.matches("git config").count(), 1, "{message}");
    }

    #[test]
    fn a_backquote_ends_no_command() {
        let message = noted(&[set("branch.`touch x`.remote", "o", true), set("branch.m.remote", "o", true)]);
        assert_eq!(message.matches("git config --file").count(), 1, "{message}");
    }

    #[test]
    fn the_line_is_bounded() {
        let many: Vec<_> = (0..100).map(|n| set(&format!("a.{n}.{}", "x".repeat(900)), "y", false)).collect();
        let message = noted(&many);
        assert!(message.contains(": 100; ") && message.len() < 500, "{message}");
    }
}
