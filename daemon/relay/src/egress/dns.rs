//! Names: judged before anybody is asked, and answered only once their addresses can be reached.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::egress::{Egress, MAX_ADDRESSES, MAX_PIN, MIN_PIN};
use agentd_policy::hosts::{HostName, HostPattern, HostVerdict};
use agentd_relay::dns::{Answer, Disposition, Outcome, Query, RecordType, Transport, disposition};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{sleep, timeout};

use super::cache::{Cache, Found, Key};
use super::told::Told;
use super::{Gate, copy, packet, upstream};
use crate::Endpoint;

/// The most questions that resolvers have at a time.
const MAX_ASKED: usize = 256;
/// The most queries that wait for an answer.
const MAX_WAITING: usize = 1024;
/// Questions to resolvers: in one go, and then a second.
const BURST: f64 = 512.0;
const RATE: f64 = 256.0;
/// How long a client may say nothing on a stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is remembered that there is nothing, at most.
const MAX_NEGATIVE: u32 = 300;
/// After a socket failed.
const PAUSE: Duration = Duration::from_millis(20);

/// What a session knows of names.
pub struct Names {
    cache: Cache,
    asked: Mutex<HashMap<Key, Arc<OnceCell<Found>>>>,
    /// For each wildcard, the names that it stood for.
    wildcards: Mutex<HashMap<HostPattern, HashSet<HostName>>>,
    bucket: Mutex<(f64, Instant)>,
    waiting: Arc<Semaphore>,
    /// For the record.
    pub told: Told,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            cache: Cache::default(),
            asked: Mutex::default(),
            wildcards: Mutex::default(),
            bucket: Mutex::new((BURST, Instant::now())),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            told: Told::default(),
        }
    }
}

impl Names {
    /// Other rules are in force.
    pub fn forget(&self) {
        self.cache.clear();
    }

    /// What can be said without asking anybody.
    fn known(&self, plan: &Egress, name: &HostName, kind: RecordType) -> Option<Found> {
        if let Err(rule) = allowed(plan, name) {
            return Some(Found::Denied(rule));
        }
        match disposition(kind, &[]) {
            Disposition::Nothing => Some(Found::Nothing(None)),
            Disposition::Refused | Disposition::Data => Some(Found::Refused("dns.type")),
            Disposition::Addresses => self.cache.get(&(name.clone(), kind)),
        }
    }

    /// The question's place among those that are asked; `None` if there is none.
    fn enter(&self, key: &Key) -> Option<Arc<OnceCell<Found>>> {
        let mut asked = lock(&self.asked);
        if asked.len() >= MAX_ASKED && !asked.contains_key(key) {
            return None;
        }
        Some(asked.entry(key.clone()).or_default().clone())
    }

    fn leave(&self, key: &Key, cell: &Arc<OnceCell<Found>>) {
        let mut asked = lock(&self.asked);
        if asked.get(key).is_some_and(|present| Arc::ptr_eq(present, cell)) {
            asked.remove(key);
        }
    }

    /// Whether a resolver may be asked once more now.
    fn has_token(&self) -> bool {
        let mut bucket = lock(&self.bucket);
        let (tokens, last) = *bucket;
        let now = Instant::now();
        let tokens = BURST.min(tokens + RATE * now.duration_since(last).as_secs_f64());
        *bucket = if tokens >= 1.0 { (tokens - 1.0, now) } else { (tokens, now) };
        tokens >= 1.0
    }

    /// Whether the wildcard that allows `name`, if it is one, may stand for it as well.
    fn within_budget(&self, plan: &Egress, name: &HostName) -> bool {
        if plan.hosts.allowing(name).any(|rule| !rule.host.is_wildcard()) {
            return true;
        }
        let Some(rule) = plan.hosts.allowing(name).next() else { return false };
        let mut wildcards = lock(&self.wildcards);
        let names = wildcards.entry(rule.host.clone()).or_default();
        let room = names.len() < usize::try_from(plan.wildcard_budget).unwrap_or(usize::MAX);
        names.contains(name) || (room && names.insert(name.clone()))
    }
}

/// Whether `name` may be resolved, or the rule by which not.
pub fn allowed(plan: &Egress, name: &HostName) -> Result<(), String> {
    match plan.hosts.resolve(name) {
        HostVerdict::Allowed(_) => Ok(()),
        HostVerdict::Denied(pattern) => Err(format!("deny {pattern}")),
        HostVerdict::Unnamed => Err("default".into()),
    }
}

/// Finds out what `name` means, for `from`. It is recorded.
pub async fn find(gate: &Gate, name: &HostName, kind: RecordType, from: SocketAddr) -> Found {
    let (found, recorded) = match gate.names.known(&gate.plan(), name, kind) {
        Some(found) => (found, false),
        None => look_up(gate, &(name.clone(), kind), from).await,
    };
    if !recorded {
        gate.names.told.asked(&gate.keeper, name.to_string(), kind.to_string(), &found).await;
    }
    found
}

/// Asks, once for all who want to know at that time. Whether the keeper has recorded it.
async fn look_up(gate: &Gate, key: &Key, from: SocketAddr) -> (Found, bool) {
    let Some(cell) = gate.names.enter(key) else {
        return (Found::Failed("too many names at a time".into()), false);
    };
    let mut recorded = false;
    let found = cell
        .get_or_init(|| async {
            let generation = gate.names.cache.generation();
            let (found, by_keeper) = ask(gate, key, from).await;
            recorded = by_keeper;
            gate.names.cache.put(key, &found, generation);
            found
        })
        .await
        .clone();
    gate.names.leave(key, &cell);
    (found, recorded)
}

async fn ask(gate: &Gate, (name, kind): &Key, from: SocketAddr) -> (Found, bool) {
    let plan = gate.plan();
    if !gate.names.within_budget(&plan, name) {
        return (Found::Denied("dns.budget".into()), false);
    }
    if !gate.names.has_token() {
        return (Found::Failed("too many names in a short time".into()), false);
    }
    let outcome = match upstream::ask(&gate.keeper, &plan, name, *kind, from).await {
        Ok(outcome) => outcome,
        Err(why) => return (Found::Failed(why), false),
    };
    let (addresses, ttl) = match judge(&plan, name, outcome) {
        Ok(both) => both,
        Err(found) => return (found, false),
    };
    let pin = ttl.clamp(MIN_PIN, MAX_PIN);
    match gate.keeper.pin(name.clone(), (*kind).into(), addresses, pin).await {
        Ok(pinned) if !pinned.is_empty() => {
            gate.pins.add(name, &pinned, Duration::from_secs(pin.into()));
            (Found::Addresses(pinned.into(), after(ttl)), true)
        }
        Ok(_) => (Found::Failed("the addresses could not be let through".into()), true),
        Err(error) => (Found::Failed(error.to_string()), false),
    }
}

/// What of an answer may be used.
fn judge(plan: &Egress, name: &HostName, outcome: Outcome) -> Result<(Vec<IpAddr>, u32), Found> {
    let Outcome { exists, chain, addresses, ttl, .. } = outcome;
    // What an allowed name is an alias of need not be allowed by its own name; it must not be denied.
    for alias in &chain {
        if let HostVerdict::Denied(pattern) = plan.hosts.resolve(alias) {
            return Err(Found::Denied(format!("deny {pattern}")));
        }
    }
    let negative = || after(ttl.min(MAX_NEGATIVE));
    if !exists {
        return Err(Found::NoName(negative()));
    }
    if addresses.is_empty() {
        return Err(Found::Nothing(Some(negative())));
    }
    let mut denial = None;
    let mut global = addresses;
    global.retain(|address| match plan.pin(name, *address) {
        Ok(()) => true,
        Err(why) => {
            denial = Some(why.to_string());
            false
        }
    });
    global.truncate(MAX_ADDRESSES);
    match denial {
        Some(rule) if global.is_empty() => Err(Found::Denied(rule)),
        _ => Ok((global, ttl)),
    }
}

fn after(seconds: u32) -> Instant {
    Instant::now() + Duration::from_secs(seconds.into())
}

/// Answers datagrams.
pub async fn serve(gate: Arc<Gate>, socket: Endpoint) {
    let mut buffer = vec![0; packet::MAX_DATAGRAM];
    loop {
        tokio::task::coop::consume_budget().await;
        let Ok((length, route)) = packet::receive(&socket, &mut buffer).await else {
            sleep(PAUSE).await;
            continue;
        };
        let query = match Query::read(&buffer[..length]) {
            Ok(query) => query,
            Err(malformed) => {
                if let Some(reply) = malformed.answer() {
                    let _ = packet::answer(socket.get_ref(), &reply, route);
                }
                continue;
            }
        };
        // A client asks again if nothing comes.
        let known = match &query.name {
            Ok(name) => gate.names.known(&gate.plan(), name, query.kind),
            Err(_) => Some(Found::Denied("dns.name".into())),
        };
        if let Some(found) = known {
            let _ = packet::answer(socket.get_ref(), &reply(&query, &found, Transport::Udp), route);
            gate.names.told.asked(&gate.keeper, shown(&query), query.kind.to_string(), &found).await;
            continue;
        }
        if let Ok(place) = gate.names.waiting.clone().try_acquire_owned() {
            let (gate, socket) = (gate.clone(), socket.clone());
            tokio::spawn(async move {
                let reply = resolve(&gate, &query, route.from, Transport::Udp).await;
                let _ = packet::answer(socket.get_ref(), &reply, route);
                drop(place);
            });
        }
    }
}

/// Answers what comes on a stream, one after the other.
pub async fn serve_stream(gate: &Gate, client: &Endpoint, from: SocketAddr) {
    let mut held = Vec::new();
    while let Ok(Ok(Some(message))) = timeout(PATIENCE, upstream::message(client, &mut held)).await {
        let reply = match Query::read(&message) {
            Ok(query) => Some(resolve(gate, &query, from, Transport::Tcp).await),
            Err(malformed) => malformed.answer(),
        };
        let Some(reply) = reply else { return };
        // Never longer than that says.
        let length = (reply.len() as u16).to_be_bytes();
        let message = [&length[..], &reply].concat();
        if !matches!(timeout(PATIENCE, copy::write(client, &message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn resolve(gate: &Gate, query: &Query, from: SocketAddr, transport: Transport) -> Vec<u8> {
    let found = match &query.name {
        Ok(name) => find(gate, name, query.kind, from).await,
        Err(_) => {
            let found = Found::Denied("dns.name".into());
            gate.names.told.asked(&gate.keeper, shown(query), query.kind.to_string(), &found).await;
            found
        }
    };
    reply(query, &found, transport)
}

/// The name in its one spelling, or, if it has none, as it came.
fn shown(query: &Query) -> String {
    query.name.as_ref().map_or_else(|_| query.shown(), HostName::to_string)
}

fn reply(query: &Query, found: &Found, transport: Transport) -> Vec<u8> {
    let answer = |answer| query.answer(answer, transport);
    match found {
        Found::Addresses(addresses, until) => {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            answer(Answer::Addresses(addresses, u32::try_from(left).unwrap_or(0)))
        }
        Found::Nothing(_) => answer(Answer::Nothing),
        Found::NoName(_) => answer(Answer::NoName),
        Found::Denied(rule) => match &query.name {
            Ok(_) => answer(Answer::Denied(&format!("agentd: not allowed ({rule})"))),
            Err(why) => answer(Answer::Denied(&format!("agentd: {why} ({rule})"))),
        },
        Found::Refused(rule) => answer(Answer::Refused(&format!("agentd: not answered ({rule})"))),
        Found::Failed(why) => answer(Answer::Failed(&format!("agentd: {why}"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
