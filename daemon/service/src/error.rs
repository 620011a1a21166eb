//! Refusals as gRPC statuses.

use std::collections::HashMap;

use agentd_policy::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::metrics::metrics;

/// `refusal` with its three parts in the details, and counted.
pub fn refused(refusal: &Refusal) -> Status {
    metrics().refused(&refusal.rule);
    let metadata =
        HashMap::from([("what".to_owned(), refusal.what.clone()), ("hint".to_owned(), refusal.hint.clone())]);
    let details = ErrorDetails::with_error_info(refusal.rule.clone(), "agentd", metadata);
    Status::with_error_details(code(&refusal.rule), refusal.to_string(), details)
}

fn code(rule: &str) -> Code {
    match rule {
        "session.unknown" | "profile.unknown" => Code::NotFound,
        "caller.root" | "caller.unknown" | "caller.admin" => Code::PermissionDenied,
        "bounds.max_sessions"
        | "bounds.max_sessions_per_user"
        | "bounds.user_requests"
        | "sessions.kept"
        | "service.crowded"
        | "session.commands"
        | "attach.slow" => Code::ResourceExhausted,
        "host.launcher" | "service.store" | "audit.failed" | "audit.late" => Code::Unavailable,
        "attach.gone" => Code::OutOfRange,
        _ if rule.starts_with("request.") => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    }
}
