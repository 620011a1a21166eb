//! What a case is: an act, why a hostile agent would try it, and what has to come of it.

use std::io;

/// What came of an act: what the attacker got, or why nothing.
pub type Act = Result<String, Refused>;

/// An act that did not work.
#[derive(Debug)]
pub struct Refused {
    /// The kernel's reason, or the one that stands for what was looked for and not found (`ENOENT`,
    /// `ENODATA`).
    pub errno: i32,
    /// More of it.
    pub detail: String,
}

impl Refused {
    /// With a detail.
    pub fn new(errno: i32, detail: impl Into<String>) -> Self {
        Self { errno, detail: detail.into() }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(0), error.to_string())
    }
}

impl From<rustix::io::Errno> for Refused {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// Where the same act is shown to work, so that a case cannot pass because it was written wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// On the host, as the user whose session it is.
    User,
    /// On the host, as root. Only for acts that change nothing there.
    Root,
    /// As root in mount, pid, network, ipc and uts namespaces of its own, where it harms nobody.
    Apart,
    /// Nowhere, for this reason.
    Nowhere(&'static str),
}

/// An event that the act must leave behind.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The event kind, such as `net.denied`.
    pub kind: &'static str,
    /// JSON pointers and what is there, as text; `{…}` is filled in.
    pub fields: &'static [(&'static str, &'static str)],
}

/// One hostile act.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name on the probe's command line and in the test's output.
    pub name: &'static str,
    /// What an attacker would have if it worked.
    pub gain: &'static str,
    /// The CVE or issue that it comes from, where there is one.
    pub origin: Option<&'static str>,
    /// What is tried.
    pub act: fn(&[String]) -> Act,
    /// Its arguments; `{…}` is filled in by the harness.
    pub args: &'static [&'static str],
    /// The errors of which one must come back inside.
    pub refused: &'static [i32],
    /// The event that must be there.
    pub seen: Option<Seen>,
    /// The system call that must be on record as refused.
    pub recorded_call: Option<&'static str>,
    /// Where it is shown to work.
    pub outside: Outside,
    /// Other arguments there: a harmless amount of the same.
    pub outside_args: Option<&'static [&'static str]>,
    /// Whether a host may lack what is attacked, so that it need not work there either.
    pub host_may_lack: bool,
    /// More options of `agentctl run`.
    pub options: &'static [&'static str],
    /// Whether the session may end by the act itself (137), before the probe could say anything.
    pub may_end_session: bool,
}

/// A case that only wants its errors: the rest is added by the methods below.
pub const fn case(
    name: &'static str,
    act: fn(&[String]) -> Act,
    args: &'static [&'static str],
    refused: &'static [i32],
    outside: Outside,
    gain: &'static str,
) -> Case {
    Case {
        name,
        gain,
        origin: None,
        act,
        args,
        refused,
        seen: None,
        recorded_call: None,
        outside,
        outside_args: None,
        host_may_lack: false,
        options: &[],
        may_end_session: false,
    }
}

impl Case {
    /// Names the CVE or issue.
    pub const fn origin(mut self, origin: &'static str) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Expects an event.
    pub const fn seen(mut self, kind: &'static str, fields: &'static [(&'static str, &'static str)]) -> Self {
        self.seen = Some(Seen { kind, fields });
        self
    }

    /// Expects `confine.denied` for this call.
    pub const fn recorded_call(mut self, call: &'static str) -> Self {
        self.recorded_call = Some(call);
        self
    }

    /// Other arguments outside.
    pub const fn outside_args(mut self, args: &'static [&'static str]) -> Self {
        self.outside_args = Some(args);
        self
    }

    /// Not every kernel or host has it.
    pub const fn host_may_lack(mut self) -> Self {
        self.host_may_lack = true;
        self
    }

    /// More options of `agentctl run`.
    pub const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// The session may end by it.
    pub const fn may_end_session(mut self) -> Self {
        self.may_end_session = true;
        self
    }
}
