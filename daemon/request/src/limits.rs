//! Limits as the API has them: each message has a field for each limit of the table that is its own.

use agentd_policy::limits::{Asked, Limits};
use agentd_proto::v1;

macro_rules! messages {
    ({} $(#[doc = $doc:literal] $limit:ident {
        plan $field:ident: $unit:ident, $(asked $key:ident,)? default $default:expr, most $most:expr
        $(, bound $own:ident: $bound_unit:ident = $bound:expr)?
    } { $($facts:tt)* })*) => {
        /// Limits that a request asks for.
        pub fn asked(message: &v1::AskedLimits) -> Asked {
            Asked { $($($key: message.$field.map(Into::into),)?)* }
        }

        /// The same as the API has it.
        pub fn asked_limits(asked: &Asked) -> v1::AskedLimits {
            v1::AskedLimits { $($($field: asked.$key.map(Into::into),)?)* }
        }

        /// Limits of a plan, from what the API has of them.
        pub fn planned(message: &v1::Limits) -> Limits {
            Limits { $($field: message.$field,)* }
        }

        /// Limits of a plan as the API has them. What enforces the disk's is not known yet.
        pub fn limits(planned: &Limits) -> v1::Limits {
            v1::Limits { $($field: planned.$field,)* disk_form: String::new() }
        }
    };
}

agentd_policy::limits_table!(messages! {});
