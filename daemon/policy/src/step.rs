//! The steps of a build and of a command's start. They travel by name; a name that is not in the table is malformed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An enum of names: each has one variant, and one place.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
        }

        impl $name {
            /// Every one, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it travels and is shown.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The one called `name`.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let name = String::deserialize(from)?;
                Self::parse(&name).ok_or_else(|| de::Error::custom("unknown step"))
            }
        }
    };
}

names! {
    /// A step of a build. Refusals name it behind `build.`.
    Step {
        // What can be made before anybody asks, in its order.
        PrepareCgroup = "prepare.cgroup",
        PrepareStreams = "prepare.streams",
        PrepareRelay = "prepare.relay",
        PrepareNamespace = "prepare.namespace",
        PrepareInit = "prepare.init",
        PrepareUserNamespace = "prepare.user-namespace",
        PrepareIdmap = "prepare.idmap",
        PrepareSystem = "prepare.system",
        PrepareSys = "prepare.sys",
        PrepareEtc = "prepare.etc",
        PrepareDevices = "prepare.devices",
        PrepareProc = "prepare.proc",
        PrepareNetwork = "prepare.network",
        // What one request asks for, in its order.
        Order = "order",
        Paths = "paths",
        Streams = "streams",
        Placeholder = "placeholder",
        Workspace = "workspace",
        ExecWatch = "exec-watch",
        Go = "go",
        Relay = "relay",
        Meter = "meter",
        Keeper = "keeper",
        Publish = "publish",
        Rights = "rights",
        Confine = "confine",
        Answer = "answer",
        // The launcher's part.
        Lease = "lease",
        Terminals = "terminals",
        Cgroup = "cgroup",
        Socket = "socket",
        Fork = "fork",
        Ended = "ended",
        // Parts of the builder's.
        Dev = "dev",
        Disk = "disk",
        Etc = "etc",
        Git = "git",
        Home = "home",
        Idmap = "idmap",
        Init = "init",
        Link = "link",
        Mask = "mask",
        Mount = "mount",
        Mounts = "mounts",
        Namespace = "namespace",
        Network = "network",
        Overlay = "overlay",
        Proc = "proc",
        Protect = "protect",
        Queues = "queues",
        Root = "root",
        Run = "run",
        Scratch = "scratch",
        Search = "search",
        Stdio = "stdio",
        Sys = "sys",
        System = "system",
        Terminal = "terminal",
        View = "view",
        // Init's part.
        Affinity = "affinity",
        Capabilities = "capabilities",
        CgroupNamespace = "cgroup namespace",
        Descriptors = "descriptors",
        Dumpable = "dumpable",
        Hostname = "hostname",
        Ids = "ids",
        Landlock = "landlock",
        Loopback = "loopback",
        Message = "message",
        Namespaces = "namespaces",
        Nflog = "nflog",
        Nftables = "nftables",
        NoNewPrivs = "no_new_privs",
        ParentDeath = "parent-death signal",
        Poll = "poll",
        RawSockets = "raw sockets",
        Rlimits = "rlimits",
        Seccomp = "seccomp",
        Signals = "signals",
        SockDiag = "sock_diag",
        Sockets = "sockets",
        Title = "title",
        UserNamespaces = "user namespaces",
    }
}

names! {
    /// Where the start of a session's command failed.
    CommandStep {
        Fork = "fork",
        Terminal = "terminal",
        Cwd = "cwd",
        Exec = "exec",
        Bounds = "bounds",
        Stopped = "stopped",
        Ending = "ending",
    }
}

impl Step {
    /// The steps of what is prepared, after each of which a debug build's launcher can inject a fault.
    pub const PREPARE: &[Self] = &[
        Self::PrepareCgroup,
        Self::PrepareStreams,
        Self::PrepareRelay,
        Self::PrepareNamespace,
        Self::PrepareInit,
        Self::PrepareUserNamespace,
        Self::PrepareIdmap,
        Self::PrepareSystem,
        Self::PrepareSys,
        Self::PrepareEtc,
        Self::PrepareDevices,
        Self::PrepareProc,
        Self::PrepareNetwork,
    ];

    /// The steps of what one request asks for, after each of which a debug build's session can inject one.
    pub const COMPLETE: &[Self] = &[
        Self::Order,
        Self::Paths,
        Self::Streams,
        Self::Placeholder,
        Self::Workspace,
        Self::ExecWatch,
        Self::Go,
        Self::Relay,
        Self::Meter,
        Self::Keeper,
        Self::Publish,
        Self::Rights,
        Self::Confine,
        Self::Answer,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn a_step_travels_by_its_name() {
        for step in Step::ALL {
            assert_eq!(Step::parse(step.name()), Some(*step));
            assert_eq!(encode(step).unwrap(), encode(&step.name()).unwrap());
            assert_eq!(decode::<Step>(&encode(step).unwrap()).unwrap(), *step);
        }
        for step in CommandStep::ALL {
            assert_eq!(decode::<CommandStep>(&encode(&step.name()).unwrap()).unwrap(), *step);
        }
    }

    #[test]
    fn an_unknown_name_is_malformed() {
        for name in ["", "Exec", "exec\0", "prepare", "build.order"] {
            assert!(decode::<Step>(&encode(&name).unwrap()).is_err(), "{name}");
            assert!(decode::<CommandStep>(&encode(&name).unwrap()).is_err(), "{name}");
        }
    }
}
