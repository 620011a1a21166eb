//! What a caller asks for, and who it is.

use crate::Refusal;
use crate::git::Place;
use crate::limits::Asked;
use crate::mode::{Mode, Role};
use crate::names::{AbsPath, NameError, RelPath, SessionId, UserName};
use crate::network::Change;
use crate::plan::WindowSize;
use crate::publish::Publish;
use crate::rule::Rule;

/// What a caller asks for, in types that hold only what is in form.
#[derive(Clone, Debug)]
pub struct Request {
    /// The identity that the session will have.
    pub session: SessionId,
    /// argv of the command; the first names the program.
    pub command: Vec<Vec<u8>>,
    /// Variables that were named by hand.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The caller's own variables; the profile picks.
    pub caller_env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The caller's directory.
    pub cwd: AbsPath,
    /// The first one in place of the profile's workspace `"."`, the others besides, and how.
    pub workspace: Vec<(AbsPath, Option<Mode>)>,
    /// Directories in mode `direct` besides.
    pub write: Vec<AbsPath>,
    /// More to read.
    pub read: Vec<AbsPath>,
    /// What workspaces need of the repositories that they belong to.
    pub git: Vec<Place>,
    /// More to mask, below each workspace.
    pub mask: Vec<String>,
    /// The files of the profile that was given, and of those that it may extend, by every name that led to them.
    pub profile_files: Vec<AbsPath>,
    /// More to let pass, and to deny.
    pub network: Change,
    /// More to publish.
    pub publish: Vec<Publish>,
    /// Limits in the place of the profile's.
    pub limits: Asked,
    /// A terminal of this size, or pipes.
    pub terminal: Option<WindowSize>,
    /// Whether what it wrote to overlays goes when it ends.
    pub remove: bool,
    /// The caller's `umask(2)`.
    pub umask: u32,
    /// What the caller opened for it, in the order that `Permit::wanted` gave; `None` before it did.
    pub offered: Option<Vec<Wanted>>,
}

/// Who asks, as the kernel and the account database have it.
#[derive(Clone, Debug)]
pub struct CallerFacts {
    /// The attested uid.
    pub uid: u32,
    /// Its login name.
    pub user: UserName,
    /// Its home directory in the account database.
    pub home: AbsPath,
    /// Its login shell.
    pub shell: AbsPath,
    /// Whether the site lets uid 0 start sessions.
    pub allow_root: bool,
}

/// A path that the caller has to open and offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the path is for.
    pub role: Role,
    /// The most that it is to be used for.
    pub mode: Mode,
    /// Where it is, and where it will appear.
    pub path: AbsPath,
}

/// What `.` and `~` mean.
pub(crate) struct Here<'a> {
    pub(crate) cwd: &'a AbsPath,
    pub(crate) home: &'a AbsPath,
}

impl Here<'_> {
    pub(crate) fn path(&self, key: &str, text: &str) -> Result<AbsPath, Refusal> {
        let fail = |e: NameError| {
            Refusal::new(
                format!("{key} {text:?}: {e}"),
                Rule::ProfilePath,
                "give an absolute path, `~/…` or one below `.`",
            )
        };
        let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        let (base, rest) = match trimmed.split_once('/') {
            Some(("~", rest)) => (self.home, rest),
            Some((".", rest)) => (self.cwd, rest),
            _ if trimmed == "~" => return Ok(self.home.clone()),
            _ if trimmed == "." => return Ok(self.cwd.clone()),
            _ if trimmed.starts_with('/') => return AbsPath::parse(trimmed).map_err(fail),
            _ => (self.cwd, trimmed),
        };
        base.join(&RelPath::parse(rest).map_err(fail)?).map_err(fail)
    }
}
