//! Questions, for the record: the first of its kind at once, what is asked again within a second as a number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::event::NetEvent;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::cache::Found;
use super::keeper::Keeper;

/// The most kinds that are counted.
const MAX_KINDS: usize = 1024;
/// How often the numbers are told.
const EVERY: Duration = Duration::from_secs(1);

/// Name, type, and the rule that refused it.
type Kind = (String, String, Option<String>);

#[derive(Default)]
struct Repeats {
    count: u64,
    addresses: Vec<IpAddr>,
}

/// What was asked lately.
#[derive(Default)]
pub struct Told {
    kinds: Mutex<HashMap<Kind, Repeats>>,
    some: Notify,
}

impl Told {
    /// `name` was asked for, and that was the answer.
    pub async fn asked(&self, keeper: &Keeper, name: String, question: String, found: &Found) {
        let denied = found.denied().map(str::to_owned);
        let kind = (name, question, denied);
        let addresses = found.addresses();
        if !self.is_first(&kind, addresses) {
            return;
        }
        self.some.notify_one();
        keeper.tell(event(kind, 1, addresses.to_vec())).await;
    }

    /// Whether this is to be told now; it is counted otherwise.
    fn is_first(&self, kind: &Kind, addresses: &[IpAddr]) -> bool {
        let mut kinds = self.kinds();
        if let Some(repeats) = kinds.get_mut(kind) {
            repeats.count += 1;
            repeats.addresses = addresses.to_vec();
            return false;
        }
        if kinds.len() < MAX_KINDS {
            kinds.insert(kind.clone(), Repeats::default());
        }
        true
    }

    /// Tells the numbers, for as long as there is a session.
    pub async fn run(&self, keeper: &Keeper) {
        loop {
            self.some.notified().await;
            while !self.kinds().is_empty() {
                sleep(EVERY).await;
                self.flush(keeper).await;
            }
        }
    }

    /// Tells the numbers now.
    pub async fn flush(&self, keeper: &Keeper) {
        let mut repeated = Vec::new();
        self.kinds().retain(|kind, repeats| {
            let Repeats { count, addresses } = std::mem::take(repeats);
            if count > 0 {
                repeated.push(event(kind.clone(), count, addresses));
            }
            count > 0
        });
        for event in repeated {
            keeper.tell(event).await;
        }
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Kind, Repeats>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event((name, question, denied): Kind, count: u64, addresses: Vec<IpAddr>) -> NetEvent {
    NetEvent::Dns { name, question, denied, addresses, count }
}
