//! Numbers about the daemon, for Prometheus. They are of the process, as its log is: whatever happens anywhere in it
//! is counted here. No label has a value that a user or an agent could choose.

mod http;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use agentd_policy::wire::Timing;
use agentd_proto::v1::Event;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::sync::lock;
pub use http::MetricsServer;
pub use snapshot::Snapshot;

/// The most values of one label. Ours are fewer.
const VALUES: usize = 256;
/// What is counted under this name is beyond that, or has no name of ours.
const OTHER: &str = "other";

/// One label and its value.
type Label = [(&'static str, String); 1];
/// How long something took, by one label.
type Durations = Family<Label, Histogram, fn() -> Histogram>;

/// The numbers of this process.
pub struct Metrics {
    registry: Registry,
    known: Mutex<BTreeSet<(&'static str, String)>>,
    sessions: Family<Label, Gauge>,
    sessions_started: Counter,
    sessions_ended: Family<Label, Counter>,
    session_create: Histogram,
    session_start: Histogram,
    session_step: Durations,
    refusals: Family<Label, Counter>,
    events: Family<Label, Counter>,
    denied_acts: Family<Label, Counter>,
    queue_length: Family<Label, Gauge>,
    relay: Family<Label, Counter>,
    connections: Gauge,
    clients: Family<Label, Gauge>,
    store: Gauge,
    store_unsynced: Gauge,
    store_sync: Histogram,
    store_failed: Gauge,
    launcher_up: Gauge,
}

pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// From 100 microseconds to 26 seconds.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("agentd"),
            known: Mutex::default(),
            sessions: Family::default(),
            sessions_started: Counter::default(),
            sessions_ended: Family::default(),
            session_create: durations(),
            session_start: durations(),
            session_step: Family::new_with_constructor(durations),
            refusals: Family::default(),
            events: Family::default(),
            denied_acts: Family::default(),
            queue_length: Family::default(),
            relay: Family::default(),
            connections: Gauge::default(),
            clients: Family::default(),
            store: Gauge::default(),
            store_unsynced: Gauge::default(),
            store_sync: durations(),
            store_failed: Gauge::default(),
            launcher_up: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    /// Their names; `agentd(8)` has the same.
    fn register(&mut self) {
        let (all, seconds, bytes) = (&mut self.registry, Unit::Seconds, Unit::Bytes);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "The version that runs", build);
        all.register("sessions", "Sessions by state", self.sessions.clone());
        let started = self.sessions_started.clone();
        all.register("sessions_started", "Sessions that were built", started);
        let ended = self.sessions_ended.clone();
        all.register("sessions_ended", "Sessions that ended, by reason", ended);
        let create = self.session_create.clone();
        let help = "From a request for a session to its answer";
        all.register_with_unit("session_create", help, seconds.clone(), create);
        let start = self.session_start.clone();
        let help = "From a request for a session until its command runs";
        all.register_with_unit("session_start", help, seconds.clone(), start);
        let step = self.session_step.clone();
        all.register_with_unit("session_step", "Steps of building a session", seconds.clone(), step);
        all.register("refusals", "Requests that were refused, by rule", self.refusals.clone());
        all.register("events", "Events that were written, by kind", self.events.clone());
        let denied = self.denied_acts.clone();
        all.register("denied_acts", "Acts of agents that were denied, by kind of event", denied);
        let queues = self.queue_length.clone();
        all.register("queue_length", "What waits, by queue", queues);
        let relay = self.relay.clone();
        let help = "Bytes between commands and the service, by direction";
        all.register_with_unit("relay", help, bytes.clone(), relay);
        all.register("connections", "Connections of clients", self.connections.clone());
        let clients = self.clients.clone();
        all.register("clients", "Clients at something that goes on, by what it is", clients);
        let help = "Events, records and output on disk, as of a minute ago at most";
        all.register_with_unit("store", help, bytes.clone(), self.store.clone());
        let help = "Events that were written and not synced yet";
        all.register_with_unit("store_unsynced", help, bytes, self.store_unsynced.clone());
        let help = "How long the disk took to sync what was written";
        all.register_with_unit("store_sync", help, seconds, self.store_sync.clone());
        let help = "Whether a sync failed: then no session is started";
        all.register("store_failed", help, self.store_failed.clone());
        all.register("launcher_up", "Whether there is a launcher", self.launcher_up.clone());
    }

    /// `value` as a label, if it is a name as ours are, and not one too many.
    fn label(&self, key: &'static str, value: &str) -> Label {
        let named = (1..=64).contains(&value.len())
            && value.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_' | b'-'));
        let mut known = lock(&self.known);
        let label = (key, if named { value } else { OTHER }.to_owned());
        if known.contains(&label) {
            return [label];
        }
        if known.iter().filter(|(other, _)| *other == key).count() >= VALUES {
            return [(key, OTHER.to_owned())];
        }
        known.insert(label.clone());
        [label]
    }

    /// A session was built.
    pub fn session_built(&self, timings: &[Timing]) {
        self.sessions_started.inc();
        for Timing { step, start_us, end_us } in timings {
            let took = Duration::from_micros(end_us.saturating_sub(*start_us));
            self.session_step.get_or_create(&self.label("step", step.name())).observe(took.as_secs_f64());
        }
    }

    /// The client has the answer to its request.
    pub fn session_created(&self, took: Duration) {
        self.session_create.observe(took.as_secs_f64());
    }

    /// Its command runs.
    pub fn session_runs(&self, after: Duration) {
        self.session_start.observe(after.as_secs_f64());
    }

    /// A session ended.
    pub fn session_ended(&self, reason: &str) {
        self.sessions_ended.get_or_create(&self.label("reason", reason)).inc();
    }

    /// A request was refused.
    pub fn refused(&self, rule: &str) {
        self.refusals.get_or_create(&self.label("rule", rule)).inc();
    }

    /// An event was written.
    pub fn event(&self, event: &Event) {
        let kind = self.label("kind", &event.kind);
        self.events.get_or_create(&kind).inc();
        if event.decision.as_deref() == Some("deny") {
            // One event stands for several packets to the same place, or questions for the same name.
            let net = event.net.as_ref().map(|net| net.count);
            let dns = event.dns.as_ref().map(|dns| dns.count);
            let calls = event.confine.as_ref().map(|confine| confine.count);
            let acts = net.or(dns).or(calls).map_or(1, |count| count.max(1));
            self.denied_acts.get_or_create(&kind).inc_by(acts);
        }
    }

    /// So many bytes came from a command.
    pub fn relayed_out(&self, bytes: usize) {
        self.relayed("out", bytes);
    }

    /// So many bytes went to a command.
    pub fn relayed_in(&self, bytes: usize) {
        self.relayed("in", bytes);
    }

    fn relayed(&self, direction: &str, bytes: usize) {
        self.relay.get_or_create(&[("direction", direction.to_owned())]).inc_by(bytes as u64);
    }

    /// The disk took what was written before.
    pub fn synced(&self, took: Duration) {
        self.store_sync.observe(took.as_secs_f64());
    }

    /// Events of a keeper that it keeps until they are acknowledged.
    pub fn unacknowledged(&self) -> Depth {
        Depth { gauge: self.queue_length.get_or_create_owned(&[("queue", "spools".to_owned())]), now: 0 }
    }
}

/// What one of many has in a queue. Nothing is left of it when this is dropped.
pub struct Depth {
    gauge: Gauge,
    now: i64,
}

impl Depth {
    /// So much it has now.
    pub fn set(&mut self, depth: u64) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.gauge.inc_by(depth - self.now);
        self.now = depth;
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        self.set(0);
    }
}
