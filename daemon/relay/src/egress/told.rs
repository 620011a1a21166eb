//! Questions, for the record: the first of its kind at once, what is asked again within a second as a number.

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
/// How often the numbers are told.
const EVERY: Duration = Duration::from_secs(1);

/// A question of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    name: String,
    question: String,
    /// The rule that refused it.
    denied: Option<String>,
    /// The rule that allows it.
    allowed: Option<String>,
    /// Whose question it was.
    client: Client,
}

/// What of a kind is not told yet.
#[derive(Default)]
struct Repeats {
    count: AtomicU64,
    /// Nobody looks at the count any more.
    over: AtomicBool,
    addresses: Mutex<Vec<IpAddr>>,
}

/// Counts who asks for something that was told, as long as it is looked at.
pub struct Tally(Arc<Repeats>, Client);

impl Tally {
    /// Once more, by `client`; `false` if that has to be told.
    pub fn again(&self, client: &Client) -> bool {
        let counts = self.1 == *client && !self.0.over.load(Ordering::Relaxed);
        if counts {
            self.0.count.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }
}

/// What was asked lately.
#[derive(Default)]
pub struct Told {
    kinds: Mutex<HashMap<Kind, Arc<Repeats>>>,
    some: Notify,
}

impl Told {
    /// `client` asked for `name`, which the rule `allowed` allows, and that is to be the answer. Who asks again for a
    /// moment can be counted by what comes back.
    pub async fn asked(
        &self,
        keeper: &Keeper,
        name: String,
        question: String,
        allowed: Option<String>,
        found: &Found,
        client: Client,
    ) -> Option<Tally> {
        let denied = found.denied().map(str::to_owned);
        let allowed = allowed.filter(|_| denied.is_none());
        let kind = Kind { name, question, denied, allowed, client };
        let addresses = found.addresses();
        let (tally, first) = self.enter(&kind, addresses);
        if first {
            self.some.notify_one();
            keeper.tell_of(event(kind, 1, addresses.to_vec()), client).await;
        }
        tally
    }

    /// What counts it, if there is room, and whether it is to be told now; it is counted otherwise.
    fn enter(&self, kind: &Kind, addresses: &[IpAddr]) -> (Option<Tally>, bool) {
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

    /// Tells the numbers, for as long as there is a session.
    pub async fn run(&self, keeper: &Keeper) {
        loop {
            self.some.notified().await;
            while !lock(&self.kinds).is_empty() {
                sleep(EVERY).await;
                self.flush(keeper).await;
            }
        }
    }

    /// Tells the numbers now.
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
            keeper.tell_again(event, Some(client)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event(kind: Kind, count: u64, addresses: Vec<IpAddr>) -> NetEvent {
    let Kind { name, question, denied, allowed, client: _ } = kind;
    NetEvent::Dns { name, question, denied, allowed, addresses, actor: None, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::profile::Protocol;

    fn client(port: u16) -> Client {
        let (from, to) = (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 53).into());
        Client { protocol: Protocol::Udp, from, to }
    }

    fn kind(name: &str) -> Kind {
        Kind { name: name.into(), question: "A".into(), denied: None, allowed: None, client: client(1) }
    }

    #[test]
    fn what_is_told_is_counted_until_nobody_asks() {
        let (told, kind) = (Told::default(), kind("a.example"));
        let counts = |tally: &Option<Tally>| tally.as_ref().is_some_and(|tally| tally.again(&client(1)));
        let (tally, first) = told.enter(&kind, &[]);
        assert!(first && counts(&tally));
        // Somebody else's question is one of its own.
        assert!(!tally.as_ref().unwrap().again(&client(2)));
        let (again, first) = told.enter(&kind, &[[192, 0, 2, 1].into()]);
        assert!(!first && counts(&again));
        let repeats = lock(&told.kinds)[&kind].clone();
        assert_eq!(repeats.count.load(Ordering::Relaxed), 3);
        assert_eq!(lock(&repeats.addresses).len(), 1);
        repeats.over.store(true, Ordering::Relaxed);
        assert!(!counts(&tally) && !counts(&again));
    }

    #[test]
    fn kinds_without_room_are_told_each_time() {
        let told = Told::default();
        for n in 0..MAX_KINDS {
            assert!(told.enter(&kind(&n.to_string()), &[]).0.is_some());
        }
        for _ in 0..2 {
            let (tally, first) = told.enter(&kind("one more"), &[]);
            assert!(tally.is_none() && first);
        }
        assert_eq!(lock(&told.kinds).len(), MAX_KINDS);
    }
}
