//! Where a fault can be injected, in debug builds.

/// The steps after which a fault can be injected by the launcher's own environment.
pub const PREPARE: &[&str] = &[
    "prepare.cgroup",
    "prepare.streams",
    "prepare.relay",
    "prepare.namespace",
    "prepare.init",
    "prepare.user-namespace",
    "prepare.idmap",
    "prepare.system",
    "prepare.sys",
    "prepare.etc",
    "prepare.devices",
    "prepare.proc",
    "prepare.network",
];

/// The steps after which one can be injected by the session's environment.
pub const COMPLETE: &[&str] = &[
    "order",
    "paths",
    "streams",
    "placeholder",
    "workspace",
    "exec-watch",
    "go",
    "relay",
    "meter",
    "confine",
    "keeper",
    "publish",
    "rights",
    "answer",
];
