//! Names: judged before anybody is asked, and answered only once their addresses can be reached. Who asks is answered
//! by [`answering`](super::answering).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::denial::Denial;
use agentd_policy::egress::{Egress, MAX_ADDRESSES, MAX_PIN, MIN_PIN, STAND_IN};
use agentd_policy::hosts::{HostName, HostPattern, HostVerdict};
use agentd_policy::rule::Rule;
use agentd_policy::token_bucket::TokenBucket;
use agentd_policy::wire::Client;
use agentd_protocols::dns::{Disposition, Key, Outcome, RecordType, disposition};
use tokio::sync::{OnceCell, Semaphore};

use super::cache::{Cache, Found};
use super::query_log::{QueryLog, Tally};
use super::rules::Rules;
use super::{Gate, upstream};

/// The most questions that resolvers have at a time.
const MAX_ASKED: usize = 256;
/// The most queries that wait for an answer.
const MAX_WAITING: usize = 1024;
/// Queries to resolvers: at once, and each second after that.
const BURST: u32 = 512;
const RATE: u32 = 256;
/// The least time between two questions for one name that are asked anew.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
/// The most names whose addresses stand for what the site's proxy knows.
const MAX_STAND_INS: u32 = 4096;
/// How long it is remembered that there is nothing, at most.
const MAX_NEGATIVE: u32 = 300;

/// A query on its way to the resolvers, with what is found.
type PendingQuery = Arc<OnceCell<Found>>;

/// What a session knows of names.
pub struct Names {
    /// What is known.
    pub cache: Cache,
    pending: Mutex<HashMap<Box<[u8]>, PendingQuery>>,
    /// For each wildcard, the names that it stood for.
    wildcards: Mutex<HashMap<HostPattern, HashSet<HostName>>>,
    bucket: Mutex<TokenBucket>,
    /// The number of each name that the site's proxy alone can resolve.
    stand_ins: Mutex<HashMap<HostName, u32>>,
    /// When names were asked for anew.
    renewed: Mutex<HashMap<HostName, Instant>>,
    /// Who waits for an answer.
    pub waiting: Arc<Semaphore>,
    pub log: QueryLog,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            cache: Cache::default(),
            pending: Mutex::default(),
            wildcards: Mutex::default(),
            bucket: Mutex::new(TokenBucket::new(BURST, RATE)),
            stand_ins: Mutex::default(),
            renewed: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            log: QueryLog::default(),
        }
    }
}

impl Names {
    /// Other rules are in force.
    pub fn forget(&self) {
        self.cache.clear();
    }

    /// What is known without a query to a resolver.
    pub fn known(&self, plan: &Rules, name: &HostName, kind: RecordType) -> Option<Found> {
        if let Err(denial) = allowed(plan, name) {
            return Some(Found::Denied(denial));
        }
        let disposition = disposition(kind, &plan.dns_types);
        // What is kept was found by the same lists.
        if matches!(disposition, Disposition::Addresses | Disposition::Data)
            && let Some(found) = self.cache.get(&Key::new(name, kind))
        {
            return Some(found);
        }
        if let Err(denial) = plan.unlisted(name) {
            return Some(Found::Denied(denial));
        }
        match disposition {
            Disposition::Nothing => Some(Found::Nothing(None)),
            Disposition::Refused => Some(Found::Refused(Rule::DnsType)),
            Disposition::Addresses | Disposition::Data => None,
        }
    }

    /// The question's place among those that are asked; `None` if there is none.
    fn enter(&self, key: &Key) -> Option<PendingQuery> {
        let mut pending = lock(&self.pending);
        if pending.len() >= MAX_ASKED && !pending.contains_key(key.as_bytes()) {
            return None;
        }
        Some(pending.entry(key.as_bytes().into()).or_default().clone())
    }

    fn leave(&self, key: &Key, cell: &PendingQuery) {
        let mut pending = lock(&self.pending);
        if pending.get(key.as_bytes()).is_some_and(|present| Arc::ptr_eq(present, cell)) {
            pending.remove(key.as_bytes());
        }
    }

    /// Whether a name may be asked for anew, and that it is.
    fn may_renew(&self, name: &HostName, now: Instant) -> bool {
        let mut renewed = lock(&self.renewed);
        renewed.retain(|_, last| now < *last + RENEWAL_INTERVAL);
        let may = renewed.len() < MAX_ASKED && !renewed.contains_key(name);
        if may {
            renewed.insert(name.clone(), now);
        }
        may
    }

    /// An address for `name`, of which the resolvers know none, and what the site's proxy may know of it.
    ///
    /// # Errors
    /// `found`, if there is no proxy, or nothing for it to find out.
    fn stand_in(
        &self,
        plan: &Egress,
        name: &HostName,
        kind: RecordType,
        found: Found,
    ) -> Result<(Vec<IpAddr>, u32), Found> {
        let unknown = matches!(found, Found::Failed(_) | Found::NoName(_) | Found::Nothing(_));
        if plan.proxy.is_none() || !unknown || !matches!(kind, RecordType::A | RecordType::AAAA) {
            return Err(found);
        }
        if kind == RecordType::AAAA {
            return Err(Found::Nothing(Some(after(MIN_PIN))));
        }
        let mut numbers = lock(&self.stand_ins);
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        if next >= MAX_STAND_INS && !numbers.contains_key(name) {
            return Err(Found::Failed("too many names for the site's proxy".into()));
        }
        let number = *numbers.entry(name.clone()).or_insert(next);
        Ok((vec![Ipv4Addr::from(u32::from(STAND_IN) + 1 + number).into()], MIN_PIN))
    }

    /// Whether a resolver may be asked once more now.
    fn has_token(&self) -> bool {
        lock(&self.bucket).take(Instant::now())
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

/// Whether the session's own rules let `name` be resolved, or why not.
fn allowed(plan: &Egress, name: &HostName) -> Result<(), Denial> {
    match plan.hosts.resolve(name) {
        HostVerdict::Allowed(_) => Ok(()),
        HostVerdict::Denied(pattern) => Err(Denial::about(Rule::Deny, pattern)),
        HostVerdict::Unnamed => Err(plan.unnamed()),
    }
}

/// Finds out what `name` means, for `client`. It is recorded.
pub async fn find(gate: &Gate, name: &HostName, kind: RecordType, client: Client) -> Found {
    let (found, recorded) = match gate.names.known(&gate.plan(), name, kind) {
        Some(found) => (found, false),
        None => look_up(gate, name, kind, Some(client)).await,
    };
    if !recorded {
        record(gate, name.to_string(), kind, &found, client).await;
    }
    found
}

/// Asks for a name anew, whatever is known of it. What it answers with is pinned.
pub async fn renew(gate: &Gate, name: &HostName, question: u16) {
    let kind = RecordType::from(question);
    let plan = gate.plan();
    if allowed(&plan, name).is_ok() && plan.unlisted(name).is_ok() {
        look_up(gate, name, kind, None).await;
    }
}

/// Asks anew for a name that had `address` once, if some other name still has: then the kernel has let a connection for
/// it through. Once in a while.
pub async fn renew_for(gate: &Gate, name: &HostName, address: IpAddr, client: Client) {
    if !gate.pins.ran_out(name, address) || !gate.names.may_renew(name, Instant::now()) {
        return;
    }
    let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    if allowed(&gate.plan(), name).is_ok() {
        look_up(gate, name, kind, Some(client)).await;
    }
}

/// Has it recorded that somebody asked.
pub async fn record(
    gate: &Gate,
    name: String,
    kind: RecordType,
    found: &Found,
    client: Client,
) -> Option<Tally> {
    let allowed = HostName::parse(&name).ok().and_then(|name| gate.plan().name_rule(&name));
    gate.names.log.record(&gate.keeper, name, kind.to_string(), allowed, found, client).await
}

/// Asks, once for all who want to know at that time. Whether the keeper has recorded it.
async fn look_up(gate: &Gate, name: &HostName, kind: RecordType, client: Option<Client>) -> (Found, bool) {
    let key = Key::new(name, kind);
    let Some(cell) = gate.names.enter(&key) else {
        return (Found::Failed("too many names at a time".into()), false);
    };
    let mut recorded = false;
    let found = cell
        .get_or_init(|| async {
            let generation = gate.names.cache.generation();
            let (found, by_keeper) = ask(gate, name, kind, client).await;
            recorded = by_keeper;
            gate.names.cache.put(&key, &found, generation);
            found
        })
        .await
        .clone();
    gate.names.leave(&key, &cell);
    (found, recorded)
}

async fn ask(gate: &Gate, name: &HostName, kind: RecordType, client: Option<Client>) -> (Found, bool) {
    // It distinguishes resolvers' connections; a renewal has none.
    let from = client.map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |client| client.from);
    let plan = gate.plan();
    if !gate.names.within_budget(&plan, name) {
        return (Found::Denied(Rule::DnsBudget.into()), false);
    }
    if !gate.names.has_token() {
        return (Found::Failed("too many names in a short time".into()), false);
    }
    let outcome = upstream::ask(gate, &plan, name, kind, from).await;
    // They may have changed meanwhile.
    let plan = gate.plan();
    let judged = match outcome {
        Ok(outcome) => judge(&plan, name, outcome),
        Err(error) => Err(Found::Failed(error.to_string())),
    };
    let (addresses, ttl) = match judged.or_else(|found| gate.names.stand_in(&plan, name, kind, found)) {
        Ok(both) => both,
        Err(found) => return (found, false),
    };
    let pin = ttl.clamp(MIN_PIN, MAX_PIN);
    match gate.keeper.pin(name.clone(), kind.into(), addresses, pin, client).await {
        Ok(pinned) if !pinned.is_empty() => {
            gate.pins.add(name, &pinned, Duration::from_secs(pin.into()));
            (Found::Addresses(pinned.into(), after(ttl)), true)
        }
        // The keeper may have had no room to record why.
        Ok(_) => (Found::Failed("the addresses could not be let through".into()), false),
        Err(error) => (Found::Failed(error.to_string()), false),
    }
}

/// What of an answer may be used: addresses that are yet to be pinned, or the answer without any.
fn judge(plan: &Rules, name: &HostName, outcome: Outcome) -> Result<(Vec<IpAddr>, u32), Found> {
    let Outcome { exists, chain, addresses, data, ttl } = outcome;
    // What an allowed name is an alias of need not be allowed by its own name; it must not be denied.
    for alias in &chain {
        if let HostVerdict::Denied(pattern) = plan.hosts.resolve(alias) {
            return Err(Found::Denied(Denial::about(Rule::Deny, pattern)));
        }
        plan.unlisted(alias).map_err(Found::Denied)?;
    }
    let negative = || after(ttl.min(MAX_NEGATIVE));
    if !exists {
        return Err(Found::NoName(negative()));
    }
    if !data.is_empty() {
        return Err(Found::Data(data.into(), after(ttl)));
    }
    if addresses.is_empty() {
        return Err(Found::Nothing(Some(negative())));
    }
    let mut denial = None;
    let mut global = addresses;
    global.retain(|address| match plan.pin(name, *address) {
        Ok(()) => true,
        Err(why) => {
            denial = Some(why);
            false
        }
    });
    global.truncate(MAX_ADDRESSES);
    match denial {
        Some(denial) if global.is_empty() => Err(Found::Denied(denial)),
        _ => Ok((global, ttl)),
    }
}

fn after(seconds: u32) -> Instant {
    Instant::now() + Duration::from_secs(seconds.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
