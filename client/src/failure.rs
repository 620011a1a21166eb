//! How a command of agentctl fails: the line on stderr and the exit code.

use std::io::{self, Write};

use agentd_policy::Refusal;
use agentd_policy::rule::{Class, Rule};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::text;

/// What `run`, `attach` and `exec` exit with where agentd or agentctl failed or refused.
pub const RUN_FAILED: i32 = 125;

/// Which exit code a failure has, outside of `run`, `attach` and `exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exit code 1, for anything else.
    Failed,
    /// Exit code 3.
    NotFound,
    /// Exit code 4.
    NotPermitted,
    /// Exit code 5.
    Unreachable,
}

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A rule said no, here or at the daemon.
    #[error("refused: {what} ({rule}): {hint}")]
    Refused {
        /// The object, with the value at fault.
        what: String,
        /// The rule's name, as the daemon has it.
        rule: String,
        /// What the user can do about it.
        hint: String,
        /// For the exit code.
        kind: Kind,
    },
    /// Something did not work.
    #[error("{message}")]
    Failed {
        /// What, in a line.
        message: String,
        /// For the exit code.
        kind: Kind,
    },
    /// All is said; only the exit code is left.
    #[error("exit {0}")]
    Quiet(i32),
}

/// The longest name of a rule that is taken from a daemon, in characters.
const MAX_RULE: usize = 512;

/// What a shell reports of a program that wrote to a closed pipe: 128 + SIGPIPE.
const BROKEN_PIPE: i32 = 141;

impl Failure {
    /// A failure with exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), kind: Kind::Failed }
    }

    /// No daemon answers, or not any more.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), kind: Kind::Unreachable }
    }

    /// Whether another try may find a daemon.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Refused { kind: Kind::Unreachable, .. } | Self::Failed { kind: Kind::Unreachable, .. }
        )
    }

    /// Whether it is for others to ask.
    pub fn is_not_permitted(&self) -> bool {
        matches!(
            self,
            Self::Refused { kind: Kind::NotPermitted, .. } | Self::Failed { kind: Kind::NotPermitted, .. }
        )
    }

    /// Whether it is a refusal by `rule`.
    pub fn is_by(&self, rule: Rule) -> bool {
        matches!(self, Self::Refused { rule: name, .. } if name == rule.name())
    }

    /// A refusal of agentctl's own.
    pub fn refused(what: impl Into<String>, rule: Rule, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), rule: rule.into(), hint: hint.into(), kind: Kind::Failed }
    }

    /// Writing to `stream` failed. Nobody reads any more: then end without a word, as `cat` does.
    pub fn output(stream: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Quiet(BROKEN_PIPE),
            _ => Self::failed(format!("{stream}: {error}")),
        }
    }

    /// Puts the line on stderr, on one line and without anything that steers a terminal.
    pub fn print(&self) {
        if !matches!(self, Self::Quiet(_)) {
            say(&self.to_string());
        }
    }

    /// The exit code of `run`, `attach` and `exec`.
    pub fn run_code(&self) -> i32 {
        match self {
            Self::Quiet(code) => *code,
            _ => RUN_FAILED,
        }
    }

    /// The exit code of everything else.
    pub fn code(&self) -> i32 {
        match self {
            Self::Quiet(code) => *code,
            Self::Refused { kind, .. } | Self::Failed { kind, .. } => match kind {
                Kind::Failed => 1,
                Kind::NotFound => 3,
                Kind::NotPermitted => 4,
                Kind::Unreachable => 5,
            },
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let Refusal { what, rule, hint } = refusal;
        let kind = match rule.class() {
            Class::NotFound => Kind::NotFound,
            Class::PermissionDenied => Kind::NotPermitted,
            _ => Kind::Failed,
        };
        Self::Refused { what, rule: rule.into(), hint, kind }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Kind::NotPermitted,
            Code::Unavailable => Kind::Unreachable,
            _ => Kind::Failed,
        };
        match status.get_details_error_info() {
            Some(mut info) if info.domain == "agentd" => Self::Refused {
                what: info.metadata.remove("what").unwrap_or_else(|| status.message().to_owned()),
                hint: info.metadata.remove("hint").unwrap_or_default(),
                rule: info.reason.chars().take(MAX_RULE).collect(),
                kind,
            },
            _ if is_transport(&status) => Self::Failed {
                message: format!("lost the connection to agentd: {}", root(&status)),
                kind: Kind::Unreachable,
            },
            _ if status.message().is_empty() => {
                Self::Failed { message: status.code().description().to_owned(), kind }
            }
            _ => Self::Failed { message: status.message().to_owned(), kind },
        }
    }
}

/// Whether no status came from the daemon at all, and tonic made one up.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The innermost cause, which names what the kernel said.
fn root(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// One line on stderr with the program's name before it. If nobody reads it, so be it.
pub fn say(line: &str) {
    let line = format!("agentctl: {}\n", text::clean(line));
    io::stderr().write_all(line.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, StatusExt};

    fn status(code: Code) -> Status {
        let meta = [("what".to_owned(), "memory 9".to_owned()), ("hint".to_owned(), "ask less".to_owned())];
        let details = ErrorDetails::with_error_info("bounds.memory", "agentd", meta);
        Status::with_error_details(code, "text", details)
    }

    #[test]
    fn a_refusal_keeps_its_three_parts() {
        let failure = Failure::from(status(Code::InvalidArgument));
        assert_eq!(failure.to_string(), "refused: memory 9 (bounds.memory): ask less");
        assert_eq!((failure.code(), failure.run_code()), (1, 125));
    }

    #[test]
    fn codes() {
        for (code, exit) in [
            (Code::NotFound, 3),
            (Code::PermissionDenied, 4),
            (Code::Unavailable, 5),
            (Code::Internal, 1),
            (Code::InvalidArgument, 1),
        ] {
            assert_eq!(Failure::from(status(code)).code(), exit);
            assert_eq!(Failure::from(Status::new(code, "x")).code(), exit);
        }
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output("stdout", &gone).run_code(), 141);
    }
}
