//! The commands on what a session changed.

use std::ffi::OsString;

use agentd_review::danger::Danger;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also into a file or pipe
    Always,
    /// On a terminal neither
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl diff nightly                  every changed line, in a pager
  agentctl diff nightly --stat           files and counts
  agentctl diff nightly src tests/a.c    only these, and what is below them
  agentctl diff nightly --git > x.patch  for `git apply`
  agentctl diff nightly --name-only -z | xargs -0 ls -d

It shows what the session's overlays hold, while it runs and after it has ended, against the workspaces as they are \
now. A path is one of a workspace, as it is from here. Control characters in names and contents are escaped, but for \
--git and -z.

What is marked `runs later` (hooks, build scripts, settings of agents, new executables and the like) is not applied \
unless it is named. A digest of what was shown is kept: `agentctl apply` refuses what the session changed since.

Exit codes: 0, whether there are changes or not; 1 failed, 3 no such session.")]
pub struct DiffArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// Files and directories, of a workspace [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Only counts, a line for each file
    #[arg(long, group = "form")]
    pub stat: bool,
    /// Only the names of changed files
    #[arg(long, group = "form")]
    pub name_only: bool,
    /// A patch that `git apply` takes
    #[arg(long, group = "form")]
    pub git: bool,
    /// One JSON object a line
    #[arg(long, group = "form")]
    pub json: bool,
    /// With --name-only: raw names, each ended by NUL
    #[arg(short = 'z', requires = "name_only")]
    pub nul: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Colour,
    /// Print at once, without a pager
    #[arg(long)]
    pub no_pager: bool,
}

/// Whose version is taken where the workspace was changed since the session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// The workspace's file stays.
    Ours,
    /// The session's file comes.
    Theirs,
    /// Both, merged line by line, with markers where they contradict each other.
    Merge,
}

/// Accepts the words of what runs later, for `--including` and its completion.
fn dangers() -> PossibleValuesParser {
    PossibleValuesParser::new(Danger::ALL.iter().map(|danger| danger.word()).chain(["all"]))
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl apply nightly                 all but what runs later by itself
  agentctl apply nightly src docs/a.md   only these, and what is below them
  agentctl apply nightly -p              asks for each hunk
  agentctl apply nightly --including hooks --including build
  agentctl apply nightly --merge         where both sides changed a file, line by line
  agentctl apply nightly --undo          takes the last apply back

All or nothing: if something fails, or the workspace was changed meanwhile, nothing is applied. An apply that was \
killed is finished or taken back by the next call, which says so. What was replaced is kept for --undo until the \
session is removed.

A file that was changed in the workspace since the session began is a conflict: --ours leaves the workspace's, --theirs \
takes the session's, --merge merges lines and marks what contradicts. No program is run, and no mode gets set-uid \
or set-gid bits.

Exit codes: 0 applied, or nothing to apply; 1 failed or refused; 3 no such session.")]
pub struct ApplyArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// Files and directories, of a workspace [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Ask for each hunk
    #[arg(short, long, conflicts_with_all = ["undo", "json", "yes"])]
    pub patch: bool,
    /// Take the last apply back, or apply again what was taken back; PATH names one of several workspaces
    #[arg(long, conflicts_with_all = ["patch", "including", "ours", "json"])]
    pub undo: bool,
    /// In a conflict, leave the workspace's file as it is
    #[arg(long, group = "prefer")]
    pub ours: bool,
    /// In a conflict, take the session's file; with --undo: replace files that were changed since
    #[arg(long, group = "prefer")]
    pub theirs: bool,
    /// In a conflict, merge line by line
    #[arg(long, group = "prefer", conflicts_with = "undo")]
    pub merge: bool,
    /// Also what runs later by itself, of this kind; may be given several times
    #[arg(long, value_name = "KIND", value_parser = dangers())]
    pub including: Vec<String>,
    /// Also what has changed since `agentctl diff` showed it
    #[arg(long)]
    pub unseen: bool,
    /// Say what would be applied, and apply nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

impl ApplyArgs {
    /// What becomes of conflicts; `None`: they are refused.
    pub fn prefer(&self) -> Option<Prefer> {
        match (self.ours, self.theirs, self.merge) {
            (true, ..) => Some(Prefer::Ours),
            (_, true, _) => Some(Prefer::Theirs),
            (.., true) => Some(Prefer::Merge),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl discard nightly
  agentctl discard -y nightly builder

The workspaces stay as they are. What the sessions have in their overlays is deleted and cannot come back; what was \
applied before stays, and so do the sessions' events. Of a session that runs nothing can be discarded.")]
pub struct DiscardArgs {
    /// Ids, unique prefixes of them, or names
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}
