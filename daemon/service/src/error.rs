//! Refusals as gRPC statuses.

use std::collections::HashMap;

use agentd_policy::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `refusal` with its three parts in the details.
pub fn refused(refusal: &Refusal) -> Status {
    let metadata =
        HashMap::from([("what".to_owned(), refusal.what.clone()), ("mend".to_owned(), refusal.mend.clone())]);
    let details = ErrorDetails::with_error_info(refusal.rule.clone(), "agentd", metadata);
    Status::with_error_details(code(&refusal.rule), refusal.to_string(), details)
}

/// A refusal of something that the API's own form does not allow.
pub fn malformed(what: impl AsRef<str>, rule: &str) -> Refusal {
    Refusal::new(what, rule, "use an agentctl of the daemon's version")
}

fn code(rule: &str) -> Code {
    match rule {
        "session.unknown" | "profile.unknown" => Code::NotFound,
        "caller.root" | "caller.unknown" => Code::PermissionDenied,
        "bounds.max_sessions" | "bounds.max_sessions_per_user" | "sessions.kept" | "service.crowded" => {
            Code::ResourceExhausted
        }
        "service.launcher" | "service.store" => Code::Unavailable,
        _ if rule.starts_with("request.") => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    }
}
