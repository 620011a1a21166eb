//! The log: to the journal in its own protocol, where each field can be searched for, else on standard error.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use agentd_kernel::stderr::{Line, LineRate, Look, Place, Severity};
use agentd_policy::config::{self, Format, Log};
use agentd_policy::names::SessionId;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What overrides the configuration's level.
const OVERRIDE: &str = "AGENTD_LOG";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging, as the configuration says.
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
    let journal = match log.format {
        Format::Auto if Place::find() == Place::Journal => journal().ok(),
        _ => None,
    };
    let begun = match (journal, json) {
        (Some(journal), _) => registry.with(journal).try_init(),
        (None, true) => registry
            .with(lines.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init(),
        (None, false) => registry.with(lines).try_init(),
    };
    // It fails if a log was started before.
    if begun.is_ok() {
        drop(FILTER.set(handle));
    }
}

/// The journal: a field `session` is `AGENTD_SESSION` there.
fn journal() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let layer = tracing_journald::layer()?;
    Ok(layer.with_field_prefix(Some("AGENTD".into())).with_priority_mappings(priorities))
}

/// Applies the configuration's level.
pub fn change(log: &Log) {
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter(log))) {
        tracing::error!(%error, "what is logged cannot be changed");
    }
}

/// The session that a file of the store is of, for the log.
pub fn session_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.split('.').next()?;
    SessionId::parse(name).is_ok().then_some(name)
}

/// The level. Of libraries only warnings are logged, unless the level is `trace`.
fn filter(log: &Log) -> EnvFilter {
    let level = log.level.as_str();
    let own = match log.level {
        config::Level::Error | config::Level::Trace => level.to_owned(),
        _ => format!("warn,agentd={level}"),
    };
    EnvFilter::try_from_env(OVERRIDE).unwrap_or_else(|_| EnvFilter::new(own))
}

/// Bounds how often each line of the program is written, but for debug lines, which the site has asked for.
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

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line<'static>;

    fn make_writer(&'a self) -> Self::Writer {
        self.0.line(Severity::Info, None)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let severity = match *meta.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        };
        self.0.line(severity, None)
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
