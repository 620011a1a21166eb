//! What no profile and no flag exceeds: `[bounds]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::ceiling::{Ceiling, Hosts};
use crate::limits::{Asked, Limit, Limits};
use crate::mode::Mode;
use crate::quantity::{Amount, Size, Span, bytes, optional_bytes};
use crate::rule::Rule;

/// Bytes of the disk limit for each file, where no profile names a number of files: what any file with content takes
/// up at least.
const BYTES_PER_INODE: u64 = 4096;

/// The bounds of the site and those of a group: their own keys, which are given, and one for each limit of the table
/// that has a bound.
macro_rules! bounds {
    ({
        site { $($(#[$site_attr:meta])* $site:ident: $site_type:ty = $site_default:expr,)* }
        group { $($(#[$group_attr:meta])* $group:ident: $group_type:ty,)* }
    }
    $(#[doc = $doc:literal] $limit:ident {
        plan $field:ident: $unit:ident, $(asked $key:ident,)? default $default:expr, most $most:expr
        $(, bound $own:ident: $bound_unit:ident = $bound:expr)?
    } { $($facts:tt)* })*) => {
        /// Limits of the site.
        #[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
        #[serde(deny_unknown_fields, default)]
        pub struct Bounds {
            $($(#[$site_attr])* pub $site: $site_type,)*
            $($(
                #[doc = concat!("The most that one session may have of this limit:", $doc)]
                pub $own: $bound_unit,
            )?)*
        }

        /// What one group's table gives. A key that it does not give is that of `[bounds]`.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct GroupBounds {
            $($(#[$group_attr])* pub $group: $group_type,)*
            $($(
                #[doc = concat!("The most that one session may have of this limit:", $doc)]
                pub $own: Option<$bound_unit>,
            )?)*
        }

        impl Default for Bounds {
            fn default() -> Self {
                Self {
                    $($site: $site_default,)*
                    $($($own: { let bound: crate::plain!($bound_unit) = $bound; bound.into() },)?)*
                }
            }
        }

        impl Bounds {
            /// The most that one session may have of `limit`.
            pub fn most(&self, limit: Limit) -> Amount {
                match limit {
                    $(Limit::$limit => { let most: fn(&Self) -> $unit = $most; most(self).into() })*
                }
            }

            /// The limits that `asked` sets, and where it sets none the default one, lowered to the bound.
            pub fn limits(&self, asked: &Asked) -> Limits {
                let mut limits = Limits {
                    $($field: {
                        let (most, default): (fn(&Self) -> $unit, crate::plain!($unit)) = ($most, $default);
                        let asked: Option<$unit> = None$(.or(asked.$key))?;
                        asked.unwrap_or_else(|| lower(default.into(), most(self))).into()
                    },)*
                };
                if asked.inodes.is_none() {
                    limits.inodes = (limits.disk / BYTES_PER_INODE).max(limits.inodes).min(self.inodes);
                }
                limits
            }

            /// `asked` with each limit lowered to its bound.
            #[must_use]
            pub fn lowered(&self, asked: &Asked) -> Asked {
                Asked {
                    $($($key: asked.$key.map(|asked| {
                        let most: fn(&Self) -> $unit = $most;
                        lower(asked, most(self))
                    }),)?)*
                }
            }

            /// Replaces each bound that one of `tables` gives by the highest that one gives.
            pub(super) fn take_highest(&mut self, tables: &[&GroupBounds]) {
                $($(
                    let highest = tables.iter().filter_map(|table| table.$own).reduce(higher);
                    self.$own = highest.unwrap_or(self.$own);
                )?)*
            }
        }
    };
}

crate::limits_table!(bounds! {
    site {
        /// Sessions on the host.
        max_sessions: u32 = 1000,
        /// Sessions of one user.
        max_sessions_per_user: u32 = 32,
        /// Bytes of all sessions of a user together.
        #[serde(deserialize_with = "bytes")]
        user_memory: u64 = 16 << 30,
        /// Processes of all sessions of a user together.
        user_pids: u64 = 16_384,
        /// CPUs of all sessions of a user together.
        user_cpus: f64 = 1024.0,
        /// Requests of one user a second, on average; a burst may be twice that.
        user_requests: u32 = 4000,
        /// Bytes of all sessions on the host; absent: seven eighths of its memory.
        #[serde(deserialize_with = "optional_bytes")]
        host_memory: Option<u64> = None,
        /// Processes of all sessions on the host; absent: half of what the kernel can have.
        host_pids: Option<u64> = None,
        /// Workspace modes that nobody gets.
        modes_forbidden: Vec<Mode> = Vec::new(),
        /// Whether ports of sessions may appear on the host's loopback.
        publish: bool = true,
        /// Whether sessions may reach ports of the host's loopback.
        local: bool = true,
        /// Whether opaque rules may be for ports 80 and 443.
        opaque: bool = false,
        /// The names and networks that a session may ever be allowed.
        hosts: Vec<Hosts> = vec![Hosts::All],
        /// Those that none ever reaches.
        hosts_denied: Vec<Hosts> = Vec::new(),
        /// What stands in the place of these for the members of a group, by its name.
        group: BTreeMap<String, GroupBounds> = BTreeMap::new(),
    }
    group {
        /// Workspace modes that the group does not get.
        modes_forbidden: Option<Vec<Mode>>,
        /// Whether ports of sessions may appear on the host's loopback.
        publish: Option<bool>,
        /// Whether sessions may reach ports of the host's loopback.
        local: Option<bool>,
        /// Whether opaque rules may be for ports 80 and 443.
        opaque: Option<bool>,
        /// The names and networks that a session may ever be allowed.
        hosts: Option<Vec<Hosts>>,
        /// Those that none ever reaches.
        hosts_denied: Option<Vec<Hosts>>,
    }
});

fn lower<T: PartialOrd>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

fn higher<T: PartialOrd>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

impl Bounds {
    /// What sessions may reach at most.
    pub fn ceiling(&self) -> Ceiling {
        Ceiling {
            hosts: self.hosts.clone(),
            denied: self.hosts_denied.clone(),
            local: self.local,
            publish: self.publish,
            opaque: self.opaque,
        }
    }

    /// Whether each of `limits` is within its bound, and enough for a session.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        Limit::ALL.iter().try_for_each(|limit| {
            let name = limit.name();
            let set_by = match (limit.flag(), limit.is_asked()) {
                (Some(_), _) => format!(": --{name}, or `{name}` in the profile's [limits]"),
                (None, true) => format!(": `{name}` in the profile's [limits]"),
                (None, false) => String::new(),
            };
            let range = (limit.least(), self.most(*limit));
            within(Rule::Bounds(*limit), name, limits.get(*limit), range, &set_by)
        })
    }
}

/// Whether `value` is in the range, with its ends; `what` it is and `set_by` which flag or key is for the refusal. What
/// does not compare, such as a CPU number that is none, is not in any.
///
/// # Errors
/// `rule`.
pub(crate) fn within(
    rule: Rule,
    what: &str,
    value: Amount,
    (least, most): (Amount, Amount),
    set_by: &str,
) -> Result<(), Refusal> {
    if value >= least && value <= most {
        return Ok(());
    }
    let compared = match value > most {
        true => format!("more than this host allows ({most})"),
        false => format!("less than a session can do with ({least})"),
    };
    let what = format!("{what} {value} is {compared}");
    Err(Refusal::new(what, rule, format!("ask for {least} to {most}{set_by}")))
}
