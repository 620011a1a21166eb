//! What launcher, builders and keepers say, on standard error: lines for the journal, for a terminal or for programs.
//! Children that are a session's name it on every line of theirs.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use agentd_kernel::stderr::{Line, LineRate, Look, Severity};
use agentd_policy::config::{self, Format, Log};
use agentd_policy::names::SessionId;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What overrides the configuration's level.
const OVERRIDE: &str = "AGENTD_LOG";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
/// Whose process this is.
static SESSION: OnceLock<String> = OnceLock::new();

/// Begins to speak, as the configuration says.
pub fn begin(log: &Log) {
    let json = log.format == Format::Json;
    let look = Look::find(json);
    let (filter, handle) = reload::Layer::new(filter(log));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Stderr(look))
        .with_ansi(false)
        .with_target(false)
        .with_timer(Clock { silent: look.is_timed() });
    let registry = tracing_subscriber::registry().with(filter).with(Bounded { look, rate: Mutex::default() });
    let begun = match json {
        true => registry
            .with(lines.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init(),
        false => registry.with(lines).try_init(),
    };
    // Nobody has begun before.
    if begun.is_ok() {
        drop(FILTER.set(handle));
    }
}

/// Speaks as the configuration says now.
pub fn change(log: &Log) {
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter(log))) {
        tracing::error!(%error, "what is logged cannot be changed");
    }
}

/// From now on this process is a part of `session`, and says so.
pub fn belong_to(session: &SessionId) {
    SESSION.get_or_init(|| session.to_string());
}

/// What is said at least. Of libraries that is only what is wrong, unless everything is to be.
fn filter(log: &Log) -> EnvFilter {
    let level = log.level.as_str();
    let own = match log.level {
        config::Level::Error | config::Level::Trace => level.to_owned(),
        _ => format!("warn,agentd={level}"),
    };
    EnvFilter::try_from_env(OVERRIDE).unwrap_or_else(|_| EnvFilter::new(own))
}

/// Bounds how often each line of the program is written, unless it only explains: the site has asked for those.
struct Bounded {
    look: Look,
    rate: Mutex<LineRate<Identifier>>,
}

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        match rate.take(event.metadata().callsite(), Instant::now()) {
            Some(0) => true,
            Some(count) => {
                self.look.held_back(count);
                true
            }
            None => false,
        }
    }
}

struct Stderr(Look);

impl Stderr {
    fn line(&self, severity: Severity) -> Line<'static> {
        self.0.line(severity, SESSION.get().map(|id| ("session", id.as_str())))
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line<'static>;

    fn make_writer(&'a self) -> Self::Writer {
        self.line(Severity::Info)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        self.line(match *meta.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        })
    }
}

/// The time of a line, which the journal knows itself.
struct Clock {
    silent: bool,
}

impl FormatTime for Clock {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        if self.silent { Ok(()) } else { SystemTime.format_time(to) }
    }
}
