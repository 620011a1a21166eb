//! The command line.

mod limits;
mod review;
mod sessions;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::keys::{self, Keys};

pub use limits::LimitArgs;
pub use review::{ApplyArgs, Colour, DiffArgs, DiscardArgs, Prefer};
pub use sessions::{
    AllowArgs, Decision, DenyArgs, DoctorArgs, EventsArgs, IdsArgs, KillArgs, LogsArgs, PsArgs, RmArgs,
    StopArgs,
};

/// Runs programs in confined sessions of agentd and shows what they did.
#[derive(Debug, Parser)]
#[command(
    name = "agentctl",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  agentctl run -- claude                 a session on the current directory, attached
  agentctl run -d --name nightly -- make a session that runs without you
  agentctl attach nightly                and back to it; ctrl-p ctrl-q detaches
  agentctl ps                            what is running
  agentctl events -f                     what the sessions do, as they do it
  agentctl diff nightly                  what it changed in your files
  agentctl apply nightly                 and take it, after a look
  agentctl kill 3f2a                     end a session; a unique prefix of its id is enough

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing found, 4 not permitted, 5 daemon not reachable.
`run`, `attach` and `exec` exit with their command's own code; see `agentctl help run`."
)]
pub struct Cli {
    /// The daemon's socket [default: $AGENTD_SOCKET, else /run/agentd/agentd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new session, attached to this terminal
    Run(Box<RunArgs>),
    /// Attach this terminal to a session's command
    Attach(AttachArgs),
    /// Run one more command in a running session
    Exec(Box<ExecArgs>),
    /// List running sessions, or all of them
    #[command(alias = "ls")]
    Ps(PsArgs),
    /// Show all that is known of sessions
    Inspect(IdsArgs),
    /// Show what a session's command has written, with control characters escaped
    Logs(LogsArgs),
    /// Ask sessions to end, and end them after a grace
    Stop(StopArgs),
    /// End sessions, or send a signal to their commands
    Kill(KillArgs),
    /// Show what a session changed in its workspaces
    Diff(DiffArgs),
    /// Take a session's changes into its workspaces, or take that back
    Apply(Box<ApplyArgs>),
    /// Throw away what ended sessions changed
    Discard(DiscardArgs),
    /// Delete ended sessions with their overlays
    Rm(RmArgs),
    /// Let a running session reach more hosts
    Allow(AllowArgs),
    /// Keep a running session from hosts, and close what it has open to them
    Deny(DenyArgs),
    /// Show what sessions did
    Events(EventsArgs),
    /// Check this host and test the sandbox
    Doctor(DoctorArgs),
    /// Check and show profiles
    Profile(ProfileArgs),
    /// Show the versions of client, daemon and kernel
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print what a shell completes with, one word a line
    #[command(hide = true)]
    Words(WordsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Manpages(ManpagesArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl run -- claude
  agentctl run --rm --workspace .:ro -- cargo test --offline
  agentctl run --profile strict --memory 2G --timeout 30m --env LANG -- python3 agent.py
  agentctl run --allow api.example.org --allow '*.example.net:443' --deny ads.example.net -- claude
  agentctl run --allow 192.0.2.0/24:8080 --allow local:5432 -- ./test.sh
  agentctl run --publish 3000 -- npm run dev
  agentctl run --workspace . --workspace ../lib:ro --write ~/.cache/pip -- make
  agentctl run -T -- tar c . > copy.tar
  agentctl run -it --rm -e DEBUG=1 bash
  agentctl run --detach --name nightly --idle 1h -- claude
  agentctl run --dry-run --json -- true

A profile NAME is looked for in ~/.config/agentd/profiles first, then at the daemon. What has a slash or \
ends in .toml is a file. Standard input is read whether the command wants it or not; give </dev/null in \
loops that read their own.

Where the workspace is a linked working tree, a submodule or a subdirectory of a git repository, what git needs of \
that repository comes along, if it names the workspace in turn; --dry-run says what. What is not followed, and the \
--read that allows it, is one line on standard error.

Without --allow, and with a profile that allows nothing, there is no network. Names are looked up by the daemon; \
a program can connect to what a name that it was allowed has answered, and needs to know of no proxy.

Exit codes: the command's own; 128+N if signal N ended it; 124 timed out; 125 agentd or agentctl failed or \
refused; 126 not executable; 127 not found.")]
pub struct RunArgs {
    /// A profile by name, or a file [default: default]
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<OsString>,
    /// A name for the session: lower-case letters, digits, and _ . -
    #[arg(long)]
    pub name: Option<String>,
    /// Print the session's id once its command runs, and leave it running; its standard input is empty
    #[arg(short, long)]
    pub detach: bool,
    /// Delete the session and its files when it exits; on a terminal it asks if there are changes
    #[arg(long)]
    pub rm: bool,
    /// Say nothing about what the session changed once it has ended
    #[arg(short, long)]
    pub quiet: bool,
    /// The directory to work in [default: the current one, in the profile's mode]; MODE is overlay, direct
    /// or ro. The command starts in the first of several, unless it was called in another
    #[arg(long, value_name = "DIR[:MODE]")]
    pub workspace: Vec<OsString>,
    /// A file or directory that the command may read besides
    #[arg(long, value_name = "PATH")]
    pub read: Vec<OsString>,
    /// A directory that the command may write to besides: what it does there is done at once, as in mode direct
    #[arg(long, value_name = "DIR")]
    pub write: Vec<OsString>,
    /// A name below the workspace that appears empty
    #[arg(long, value_name = "GLOB")]
    pub mask: Vec<String>,
    /// What may be connected to, besides the profile's: a name, `*.` and a name for all below it, a network, or a
    /// port of this host's own loopback. Without PORT 80 and 443, `*` for all, several with commas; of TCP, or
    /// `PORT/udp`. An IPv6 network with ports stands in brackets
    #[arg(long, value_name = "HOST[:PORT]|CIDR[:PORT]|local:PORT")]
    pub allow: Vec<String>,
    /// A name, or `*.` and a name, that is refused whatever allows it
    #[arg(long, value_name = "HOST")]
    pub deny: Vec<String>,
    /// A TCP port of the session that appears on this host's loopback, under the same number or as HOSTPORT; anybody on
    /// this host can connect to it
    #[arg(short, long, value_name = "[HOSTPORT:]PORT")]
    pub publish: Vec<String>,
    /// An environment variable; without a value, the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<OsString>,
    /// Limits in the place of the profile's.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// With a terminal [default: if standard input and output are one; with --detach, if standard input is]
    #[arg(short = 't', long = "tty", overrides_with_all = ["tty", "no_tty"])]
    pub tty: bool,
    /// Without a terminal
    #[arg(short = 'T', long = "no-tty", overrides_with_all = ["tty", "no_tty"])]
    pub no_tty: bool,
    /// Changes nothing: standard input is always read
    #[arg(id = "interactive", short = 'i', long = "interactive", overrides_with = "interactive")]
    pub _interactive: bool,
    /// The keys that detach from a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// Print the resolved plan and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the plan, the id and the timings as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Print on standard error, at the end, how long each step of the start took
    #[arg(long)]
    pub timings: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl attach 3f2a
  agentctl attach nightly --watch        only look; ctrl-c leaves

ctrl-p ctrl-q detaches: the session goes on and waits for the next to attach. A session whose last client is \
gone without having detached ends after a while.

Exit codes: as `agentctl run`; 0 after detaching.")]
pub struct AttachArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// Only look: no input, no signals, and the session does not depend on it
    #[arg(short, long)]
    pub watch: bool,
    /// The keys that detach from a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// Say nothing about what the session changed once it has ended
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl exec 3f2a -- bash             a shell beside the session's command, confined as it is
  agentctl exec nightly --cwd /tmp --env DEBUG=1 -- env
  agentctl exec -T nightly -- tar c . > copy.tar

The command ends with the session, and when you detach.

Exit codes: as `agentctl run`.")]
pub struct ExecArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// An environment variable; without a value, the caller's own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<OsString>,
    /// Where the command starts, as an absolute path [default: as the session's]
    #[arg(short = 'w', long, alias = "workdir", value_name = "DIR")]
    pub cwd: Option<OsString>,
    /// With a terminal [default: if standard input and output are one]
    #[arg(short = 't', long = "tty", overrides_with_all = ["tty", "no_tty"])]
    pub tty: bool,
    /// Without a terminal
    #[arg(short = 'T', long = "no-tty", overrides_with_all = ["tty", "no_tty"])]
    pub no_tty: bool,
    /// Changes nothing: standard input is always read
    #[arg(id = "interactive", short = 'i', long = "interactive", overrides_with = "interactive")]
    pub _interactive: bool,
    /// The keys that detach from a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(agentctl completion bash)
  agentctl completion zsh > ~/.zfunc/_agentctl
  agentctl completion fish > ~/.config/fish/completions/agentctl.fish")]
pub struct CompletionArgs {
    /// For which shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct WordsArgs {
    /// Of which kind
    pub kind: Words,
}

/// What is completed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Words {
    /// Ids and names of sessions that have not ended
    Running,
    /// Ids and names of all sessions
    Sessions,
    /// Profiles by name: the user's own and the default one
    Profiles,
}

#[derive(Debug, Args)]
pub struct ManpagesArgs {
    /// A directory that exists
    pub dir: PathBuf,
}

/// The shells that there is a completion for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ProfileCommand,
}

/// What to do with a profile.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Check that a profile and all that it extends can be used
    #[command(
        after_help = "Examples:\n  agentctl profile check ./agent.toml\n  agentctl profile check default"
    )]
    Check(ProfileNameArgs),
    /// Print a profile with all that it extends, as TOML
    #[command(
        after_help = "Examples:\n  agentctl profile show default\n  agentctl profile show ./agent.toml"
    )]
    Show(ProfileNameArgs),
}

#[derive(Debug, Args)]
pub struct ProfileNameArgs {
    /// A profile by name, or a file
    #[arg(value_name = "NAME|FILE", default_value = "default")]
    pub profile: OsString,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl version\n  agentctl version --json")]
pub struct VersionArgs {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests;
