//! Refusals as gRPC statuses.

use std::collections::HashMap;

use agentd_policy::Refusal;
use agentd_policy::rule::Class;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::metrics::metrics;

/// `refusal` with its three parts in the details, and counted.
pub fn refused(refusal: &Refusal) -> Status {
    metrics().refused(refusal.rule.name());
    let metadata =
        HashMap::from([("what".to_owned(), refusal.what.clone()), ("hint".to_owned(), refusal.hint.clone())]);
    let details = ErrorDetails::with_error_info(refusal.rule.name(), "agentd", metadata);
    Status::with_error_details(code(refusal.rule.class()), refusal.to_string(), details)
}

fn code(class: Class) -> Code {
    match class {
        Class::NotFound => Code::NotFound,
        Class::PermissionDenied => Code::PermissionDenied,
        Class::ResourceExhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::OutOfRange => Code::OutOfRange,
        Class::InvalidArgument => Code::InvalidArgument,
        Class::FailedPrecondition => Code::FailedPrecondition,
    }
}
