//! Coalesces events of DNS queries: the first of its kind is sent at once, further ones within a second as a count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::event::NetEvent;
use agentd_policy::wire::Client;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::cache::Found;
use super::keeper::Keeper;

/// The most kinds that are counted.
const MAX_KINDS: usize = 1024;
/// How often the counts are sent.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What the events have in common that are coalesced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QueryKind {
    name: String,
    question: String,
    /// The rule that refused it.
    denied: Option<String>,
    /// The rule that allows it.
    allowed: Option<String>,
    /// Whose question it was.
    client: Client,
}

/// What of a kind is not sent yet.
#[derive(Default)]
struct Repeats {
    count: AtomicU64,
    /// The count is not sent any more.
    over: AtomicBool,
    addresses: Mutex<Vec<IpAddr>>,
}

/// Counts further queries of a kind for as long as its count is sent.
pub struct Tally(Arc<Repeats>, Client);

impl Tally {
    /// Counts one more by `client`; `false` if it needs an event of its own.
    pub fn again(&self, client: &Client) -> bool {
        let counts = self.1 == *client && !self.0.over.load(Ordering::Relaxed);
        if counts {
            self.0.count.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }
}

#[derive(Default)]
pub struct QueryLog {
    kinds: Mutex<HashMap<QueryKind, Arc<Repeats>>>,
    entered: Notify,
}

impl QueryLog {
    /// `client` asked for `name`, which the rule `allowed` allows, and that is to be the answer. Who asks again for a
    /// moment can be counted by what comes back.
    pub async fn record(
        &self,
        keeper: &Keeper,
        name: String,
        question: String,
        allowed: Option<String>,
        found: &Found,
        client: Client,
    ) -> Option<Tally> {
        let denied = found.denied().map(|denial| denial.to_string());
        let allowed = allowed.filter(|_| denied.is_none());
        let kind = QueryKind { name, question, denied, allowed, client };
        let addresses = found.addresses();
        let (tally, first) = self.enter(&kind, addresses);
        if first {
            self.entered.notify_one();
            keeper.record_and_wait(event(kind, 1, addresses.to_vec()), client).await;
        }
        tally
    }

    /// What counts it, if there is room, and whether it needs an event now; it is counted otherwise.
    fn enter(&self, kind: &QueryKind, addresses: &[IpAddr]) -> (Option<Tally>, bool) {
        let mut kinds = lock(&self.kinds);
        if let Some(repeats) = kinds.get(kind) {
            repeats.count.fetch_add(1, Ordering::Relaxed);
            *lock(&repeats.addresses) = addresses.to_vec();
            return (Some(Tally(repeats.clone(), kind.client)), false);
        }
        if kinds.len() >= MAX_KINDS {
            return (None, true);
        }
        let repeats = Arc::new(Repeats { addresses: Mutex::new(addresses.to_vec()), ..Repeats::default() });
        kinds.insert(kind.clone(), repeats.clone());
        (Some(Tally(repeats, kind.client)), true)
    }

    /// Sends the counts, for as long as there is a session.
    pub async fn run(&self, keeper: &Keeper) {
        loop {
            self.entered.notified().await;
            while !lock(&self.kinds).is_empty() {
                sleep(FLUSH_INTERVAL).await;
                self.flush(keeper).await;
            }
        }
    }

    /// Sends the counts now.
    pub async fn flush(&self, keeper: &Keeper) {
        let mut repeated = Vec::new();
        lock(&self.kinds).retain(|kind, repeats| {
            let count = repeats.count.swap(0, Ordering::Relaxed);
            if count > 0 {
                repeated.push((event(kind.clone(), count, lock(&repeats.addresses).clone()), kind.client));
            } else {
                repeats.over.store(true, Ordering::Relaxed);
            }
            count > 0
        });
        for (event, client) in repeated {
            keeper.record_repeat(event, Some(client)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event(kind: QueryKind, count: u64, addresses: Vec<IpAddr>) -> NetEvent {
    let QueryKind { name, question, denied, allowed, client: _ } = kind;
    NetEvent::Dns { name, question, denied, allowed, addresses, actor: None, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::protocol::Protocol;

    fn client(port: u16) -> Client {
        let (from, to) = (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 53).into());
        Client { protocol: Protocol::Udp, from, to }
    }

    fn kind(name: &str) -> QueryKind {
        QueryKind { name: name.into(), question: "A".into(), denied: None, allowed: None, client: client(1) }
    }

    #[test]
    fn what_is_told_is_counted_until_nobody_asks() {
        let (log, kind) = (QueryLog::default(), kind("a.example"));
        let counts = |tally: &Option<Tally>| tally.as_ref().is_some_and(|tally| tally.again(&client(1)));
        let (tally, first) = log.enter(&kind, &[]);
        assert!(first && counts(&tally));
        // Somebody else's question is one of its own.
        assert!(!tally.as_ref().unwrap().again(&client(2)));
        let (again, first) = log.enter(&kind, &[[192, 0, 2, 1].into()]);
        assert!(!first && counts(&again));
        let repeats = lock(&log.kinds)[&kind].clone();
        assert_eq!(repeats.count.load(Ordering::Relaxed), 3);
        assert_eq!(lock(&repeats.addresses).len(), 1);
        repeats.over.store(true, Ordering::Relaxed);
        assert!(!counts(&tally) && !counts(&again));
    }

    #[test]
    fn kinds_without_room_are_told_each_time() {
        let log = QueryLog::default();
        for n in 0..MAX_KINDS {
            assert!(log.enter(&kind(&n.to_string()), &[]).0.is_some());
        }
        for _ in 0..2 {
            let (tally, first) = log.enter(&kind("one more"), &[]);
            assert!(tally.is_none() && first);
        }
        assert_eq!(lock(&log.kinds).len(), MAX_KINDS);
    }
}
