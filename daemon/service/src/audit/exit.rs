//! How a session or a further command ended, as clients see it.

use agentd_policy::event::{End, ExitStatus};
use agentd_policy::exit_reason::ExitReason;
use agentd_policy::step::CommandStep;
use agentd_proto::v1::Exit;

use super::reached::ReachedLimits;
use crate::text::bounded;

/// `program` is what the command was started as, and `reached` the limits that it met before.
pub fn exit(end: &End, program: &str, reached: &ReachedLimits) -> Exit {
    let with = |reason: ExitReason, code, signal, message: String| Exit {
        reason: reason.as_str().to_owned(),
        code,
        signal,
        message,
    };
    match end {
        End::Command(ExitStatus::Code(code)) => with(ExitReason::Exited, Some(*code), None, String::new()),
        End::Command(ExitStatus::Signal(signal)) => {
            with(ExitReason::Signaled, None, Some(*signal), String::new())
        }
        End::NotRun { step, errno } => {
            let error = std::io::Error::from_raw_os_error(*errno);
            match (step, error.kind()) {
                (CommandStep::Exec, std::io::ErrorKind::NotFound) => {
                    with(ExitReason::Exited, Some(127), None, format!("{program}: not found"))
                }
                (CommandStep::Exec, _) => {
                    with(ExitReason::Exited, Some(126), None, bounded(&format!("{program}: {error}")))
                }
                (CommandStep::Stopped, _) => with(
                    ExitReason::Failed,
                    None,
                    None,
                    "a process of the session stopped it before it could run".into(),
                ),
                (step, _) => with(ExitReason::Failed, None, None, bounded(&format!("{step}: {error}"))),
            }
        }
        End::Timeout => with(ExitReason::Timeout, None, None, reached.timeout()),
        End::Idle => with(ExitReason::Timeout, None, None, reached.idle()),
        End::OutOfMemory => with(ExitReason::OutOfMemory, None, None, reached.memory()),
        End::Killed => with(ExitReason::Killed, None, None, String::new()),
        End::Failed { what } => with(ExitReason::Failed, None, None, bounded(what)),
    }
}
