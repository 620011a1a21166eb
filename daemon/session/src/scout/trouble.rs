//! Why a workspace cannot be searched in full. What is not searched would not be covered: the session is refused.

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use rustix::io::Errno;

/// What kept the search from its end, and where.
#[derive(Debug)]
pub enum Trouble {
    /// More names than the budget.
    TooLarge(usize),
    /// A directory deeper than the budget.
    TooDeep(Vec<u8>),
    /// More names to cover than there may be mounts.
    TooMany,
    /// A directory of the caller's that is closed to the agent, which could open it again.
    Closed(Vec<u8>),
    /// A Unix socket that the profile does not name.
    Socket(Vec<u8>),
    /// A name to cover that is not UTF-8.
    NotUtf8(Vec<u8>),
    /// A name to cover that is a link.
    Link(Vec<u8>),
    /// A file of git's that cannot be read as git would.
    Unreadable(Vec<u8>, String),
    /// The kernel refused something.
    Host(Vec<u8>, Errno),
}

impl Trouble {
    /// For the caller; `top` is the workspace.
    pub fn refusal(self, top: &str) -> Refusal {
        let at = |path: &[u8]| format!("{top}/{}", String::from_utf8_lossy(path));
        match self {
            Self::TooLarge(most) => Refusal::new(
                format!("{top} has more than {most} files, too many to be searched"),
                Rule::WorkspaceLarge,
                "use a smaller directory, or a profile whose masks are literal names (and mode overlay)",
            ),
            Self::TooDeep(path) => Refusal::new(
                format!("{} is too deep to be searched", at(&path)),
                Rule::WorkspaceLarge,
                "move it away, or use a smaller directory",
            ),
            Self::TooMany => Refusal::new(
                format!("{top} has too many names to mask and protect"),
                Rule::WorkspaceNames,
                "use a smaller directory, or mode overlay",
            ),
            Self::Closed(path) => Refusal::new(
                format!("{} cannot be searched", at(&path)),
                Rule::WorkspaceClosed,
                "make it readable, move it away, or use mode overlay",
            ),
            Self::Socket(path) => Refusal::new(
                format!("{} is a Unix socket", at(&path)),
                Rule::WorkspaceSocket,
                "use mode overlay, or name it in `sockets` of the profile's workspace",
            ),
            Self::NotUtf8(path) => Refusal::new(
                format!("{} is to be covered and is not UTF-8", at(&path)),
                Rule::WorkspaceUtf8,
                "rename it, or move it away",
            ),
            Self::Link(path) => Refusal::new(
                format!("{} is a symbolic link", at(&path)),
                Rule::WorkspaceSymlink,
                "masked and protected names must not lead through links; replace it by what it names",
            ),
            Self::Unreadable(path, why) => Refusal::new(
                format!("{}: {why}", at(&path)),
                Rule::WorkspaceGit,
                "fix it, or use mode overlay: what git would follow from there is unknown",
            ),
            Self::Host(path, errno) => Refusal::new(
                format!("{}: {errno}", at(&path)),
                Rule::Build(Step::Search),
                "see the launcher's log",
            ),
        }
    }
}
