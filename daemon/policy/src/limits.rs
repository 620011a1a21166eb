//! What one session may use up: the table of its limits, and what enforces the disk's. What the site makes of them is
//! in `config/bounds.rs`.

use serde::{Deserialize, Serialize};

use crate::quantity::{Amount, Size, Span};

/// Gives the table of limits to the macro `$make`, behind `$given`: what has a field for each limit is made of it.
///
/// A row has the limit's field in a plan and its unit; its key in `[limits]`, by which it is asked for; what it is if
/// nobody asks; the most that a site lets one session have; and its key in `[bounds]` with the default of that. Behind
/// these is what does not depend on types.
#[macro_export]
macro_rules! limits_table {
    ($make:ident! { $($given:tt)* }) => { $make! { { $($given)* }
        /// Bytes of memory, page cache and scratch included; swap is off.
        Memory {
            plan memory: Size, asked memory, default 4 << 30, most |site| site.memory, bound memory: Size = 8 << 30
        } {
            least: Amount::Size(1 << 20),
            rule: "The memory limit is outside what the site allows one session.",
            flag: Some(Flag { short: Some('m'), help: "The most memory, such as 512M or 4G" }),
        }
        /// CPUs' worth of time.
        Cpus {
            plan cpus: f64, asked cpus, default 2.0, most |site| site.cpus, bound cpus: f64 = 256.0
        } {
            least: Amount::Cpus(0.01),
            rule: "The CPU limit is outside what the site allows one session.",
            flag: Some(Flag { short: None, help: "The most CPUs' worth of time, such as 1.5" }),
        }
        /// Processes and threads.
        Pids {
            plan pids: u64, asked pids, default 512, most |site| site.pids, bound pids: u64 = 8192
        } {
            least: Amount::Count(1),
            rule: "The limit of processes is outside what the site allows one session.",
            flag: Some(Flag { short: None, help: "The most processes and threads" }),
        }
        /// Bytes of overlay, in files with and without a name.
        Disk {
            plan disk: Size, asked disk, default 10 << 30, most |site| site.disk, bound disk: Size = 100 << 30
        } {
            least: Amount::Size(0),
            rule: "The disk limit is outside what the site allows one session.",
            flag: Some(Flag { short: None, help: "The most that the overlay may hold, such as 10G" }),
        }
        /// Files, directories and links of overlay. The default is the least one: it grows with the disk limit.
        Inodes {
            plan inodes: u64, asked inodes, default 1024, most |site| site.inodes, bound inodes: u64 = 4_000_000
        } {
            // Those that an overlay is made of are among them.
            least: Amount::Count(64),
            rule: "The limit of files is outside what the site allows one session.",
            flag: None,
        }
        /// Milliseconds from the start to the end.
        Timeout {
            plan timeout_ms: Span, asked timeout, default 8 * 3_600_000, most |site| site.timeout,
            bound timeout: Span = 30 * 86_400_000
        } {
            least: Amount::Span(1),
            rule: "The session would last longer than the site allows, or not at all.",
            flag: Some(Flag {
                short: None,
                help: "When the session ends at the latest, such as 90s, 30m or 8h",
            }),
        }
        /// Milliseconds without a byte on any of its streams and without a new program; 0 for no such limit.
        Idle {
            plan idle_ms: Span, asked idle, default 0, most |site| site.timeout
        } {
            least: Amount::Span(0),
            rule: "The session would idle longer than the site lets one last.",
            flag: Some(Flag {
                short: None,
                help: "The idle timeout: the session ends after so long without a byte on its streams and \
                    connections and without a new process",
            }),
        }
        /// Open files a process.
        OpenFiles {
            plan open_files: u64, default 65_536, most |_| 1 << 20
        } {
            least: Amount::Count(16),
            rule: "The limit of open files is too small or too large.",
            flag: None,
        }
    } };
}

/// What a plan has for a unit: the same number without it.
#[macro_export]
macro_rules! plain {
    (Size) => {
        u64
    };
    (Span) => {
        u64
    };
    ($plain:ident) => {
        $plain
    };
}

/// A limit's name: its key, or its field if nobody can ask for it.
macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:ident) => {
        stringify!($key)
    };
}

/// Whether anybody can ask for it: if it has a key.
macro_rules! is_asked {
    () => {
        false
    };
    ($key:ident) => {
        true
    };
}

/// A flag of `agentctl run`.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// What `--help` has of it.
    pub help: &'static str,
}

/// What the table has of a limit besides types.
struct Facts {
    name: &'static str,
    rule_name: &'static str,
    is_asked: bool,
    least: Amount,
    rule: &'static str,
    flag: Option<Flag>,
}

macro_rules! limits {
    ({} $(#[doc = $doc:literal] $limit:ident {
        plan $field:ident: $unit:ident, $(asked $key:ident,)? default $default:expr, most $most:expr
        $(, bound $own:ident: $bound_unit:ident = $bound:expr)?
    } { $($facts:tt)* })*) => {
        /// One of the limits of a session.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Limit {
            $(#[doc = $doc] $limit,)*
        }

        impl Limit {
            /// Every one, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$limit,)*];

            const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$limit => &Facts {
                        name: name!($field $($key)?),
                        rule_name: concat!("bounds.", name!($field $($key)?)),
                        is_asked: is_asked!($($key)?),
                        $($facts)*
                    },)*
                }
            }
        }

        /// What a session may use up.
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Limits {
            $(#[doc = $doc] pub $field: $crate::plain!($unit),)*
        }

        impl Limits {
            /// One of them.
            pub fn get(&self, limit: Limit) -> Amount {
                match limit {
                    $(Limit::$limit => $unit::from(self.$field).into(),)*
                }
            }
        }

        /// Limits that a profile sets in `[limits]`, or a command line.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Asked {
            $($(
                #[doc = $doc]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$unit>,
            )?)*
        }

        impl Asked {
            /// What `child` sets, and the rest of `self`.
            #[must_use]
            pub fn overlaid(&self, child: &Self) -> Self {
                Self { $($($key: child.$key.or(self.$key),)?)* }
            }
        }
    };
}

crate::limits_table!(limits! {});

impl Limit {
    /// Its key in `[limits]` and `[bounds]`, its flag and its event, without dashes.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The name of the rule by which a plan is refused that has too much or too little of it.
    pub const fn rule_name(self) -> &'static str {
        self.facts().rule_name
    }

    /// What that rule means, in a sentence.
    pub const fn rule_text(self) -> &'static str {
        self.facts().rule
    }

    /// What a session cannot do with less than.
    pub const fn least(self) -> Amount {
        self.facts().least
    }

    /// Whether a profile can set it.
    pub const fn is_asked(self) -> bool {
        self.facts().is_asked
    }

    /// Its flag, if it has one.
    pub const fn flag(self) -> Option<Flag> {
        self.facts().flag
    }
}

/// What enforces the limit of a session's overlays on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskForm {
    /// A project of its own in a file system with quotas: what is too much is refused.
    Quota,
    /// A file system of its own in an image of the limit's size: what is too much is refused.
    Image,
    /// A process that looks: who has too much is ended.
    Watch,
}

impl DiskForm {
    /// The word that `disk_limits` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Image => "image",
            Self::Watch => "watch",
        }
    }
}
