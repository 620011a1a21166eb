//! The commands on sessions that are there already.

use agentd_policy::event_kind::EventKind;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use crate::quantity;

/// Sessions, and nothing else to say.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl inspect 3f2a
  agentctl inspect nightly --json")]
pub struct IdsArgs {
    /// Ids, unique prefixes of them, or names
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl logs 3f2a
  agentctl logs nightly -f --tail 20
  agentctl logs nightly --json           {stream, text} as it was written

What the command wrote to its standard error comes on standard error.")]
pub struct LogsArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// Go on with what is written from now
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl stop 3f2a
  agentctl stop --time 1m nightly builder")]
pub struct StopArgs {
    /// Ids, unique prefixes of them, or names
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// How long a session may take until it is ended; a number alone is of seconds [default: 10s]
    #[arg(short, long, value_name = "DURATION", value_parser = quantity::seconds_or_duration_ms)]
    pub time: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl doctor
  agentctl doctor --json
  agentctl doctor --leaks --clean        what earlier sessions left, taken away; for admins

Besides, a session is made that tries five things which it must not be able to do.

Exit codes: 0 all well, 1 something is missing or was possible, 5 daemon not reachable.")]
pub struct DoctorArgs {
    /// Make no session
    #[arg(long)]
    pub no_canary: bool,
    /// Look for what earlier sessions left behind
    #[arg(long)]
    pub leaks: bool,
    /// And take it away
    #[arg(long, requires = "leaks")]
    pub clean: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl ps
  agentctl ps -a --json
  agentctl kill $(agentctl ps -q)

ATTACHED is how many clients are attached; \"detached\" sessions live without any.")]
pub struct PsArgs {
    /// Ended sessions too
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only, one a line
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl kill 3f2a                     end the whole session
  agentctl kill builder -s TERM          ask its command to end
  agentctl kill 3f2a builder             several")]
pub struct KillArgs {
    /// Ids, unique prefixes of them, or names
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// A signal for the command, by name or number; KILL ends the whole session
    #[arg(short, long, value_name = "SIG", value_parser = quantity::signal)]
    pub signal: Option<i32>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl rm 3f2a
  agentctl rm -f builder 3f2b            end them first")]
pub struct RmArgs {
    /// Ids, unique prefixes of them, or names
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// End them first
    #[arg(short, long)]
    pub force: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl allow 3f2a api.example.org    ports 80 and 443
  agentctl allow nightly '*.example.net:443' registry.example:*

Also for a session that began without a network, unless its profile has default = \"none\". Ports of this host's \
loopback and of UDP have sockets of their own: only those that it began with can be named. What is denied stays so.")]
pub struct AllowArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// What may be connected to, as `agentctl run --allow` takes it
    #[arg(required = true, value_name = "HOST[:PORT]|CIDR[:PORT]")]
    pub rules: Vec<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl deny 3f2a api.example.org
  agentctl deny nightly '*.example.net'

A name stays denied until the session ends, and wins over whatever allows \
it. Connections to it are closed.")]
pub struct DenyArgs {
    /// An id, a unique prefix of one, or a name
    pub id: String,
    /// Names, or `*.` and a name for all below it
    #[arg(required = true, value_name = "HOST")]
    pub hosts: Vec<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which way a decision went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decision {
    /// What was permitted
    Allow,
    /// What was refused
    Deny,
}

/// Accepts the kinds of events, for `--kind`, its completion and its manual page.
fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.as_str()))
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl events 3f2a                   all of one session
  agentctl events -f --decision deny     refusals of all sessions, as they happen
  agentctl events -f --since 0s          of everything, but not of what was before
  agentctl events --since 10m --kind process.exec --json

What a refusal names as its rule is explained in agentd-rules(7).")]
pub struct EventsArgs {
    /// An id, a unique prefix of one, or a name [default: all sessions that you may see]
    pub id: Option<String>,
    /// Go on with what happens after that, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// From this time on: RFC 3339, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = quantity::since)]
    pub since: Option<String>,
    /// Only this kind, such as net.denied; may be given several times
    #[arg(long, value_name = "KIND", value_parser = kinds())]
    pub kind: Vec<String>,
    /// Only what was decided so
    #[arg(long)]
    pub decision: Option<Decision>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}
