//! What rules let through at most, counted over all connections of the session. The relay has one thread: between
//! looking at what is left and counting what went, nothing is awaited, and so nothing else comes.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_policy::allow::AllowRule;
use agentd_policy::caps::{Capped, Caps};
use agentd_policy::denial::Denial;
use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;

/// For the client, in its words.
pub const WHY: &str = "a cap of the rule that allows it is reached";

/// One for each rule that has had caps, for as long as the session lives: other rules in force begin nothing anew.
#[derive(Default)]
pub struct Counters(Mutex<Vec<Arc<Counter>>>);

struct Counter {
    rule: AllowRule,
    open: AtomicU32,
    sent: AtomicU64,
}

impl Counters {
    fn of(&self, rule: &AllowRule) -> Arc<Counter> {
        let mut counters = lock(&self.0);
        if let Some(counter) = counters.iter().find(|counter| counter.rule == *rule) {
            return counter.clone();
        }
        let new = Counter { rule: rule.clone(), open: AtomicU32::new(0), sent: AtomicU64::new(0) };
        let new = Arc::new(new);
        counters.push(new.clone());
        new
    }
}

/// A connection's part in a rule's caps; its place among those that are open goes with it.
struct Share {
    counter: Arc<Counter>,
    caps: Caps,
    /// What it is used for by this rule, and where.
    purposes: Vec<(Purpose, SocketAddr)>,
}

impl Share {
    fn take(counter: Arc<Counter>, caps: Caps) -> Result<Self, Denial> {
        let open = counter.open.load(Ordering::Relaxed);
        if caps.connections.is_some_and(|most| open >= most) {
            return Err(Denial::about(Rule::CapConnections, &counter.rule));
        }
        counter.open.store(open + 1, Ordering::Relaxed);
        let share = Self { counter, caps, purposes: Vec::new() };
        share.with_room()?;
        Ok(share)
    }

    fn left(&self) -> u64 {
        self.caps.sent.map_or(u64::MAX, |most| most.saturating_sub(self.counter.sent.load(Ordering::Relaxed)))
    }

    fn with_room(&self) -> Result<(), Denial> {
        if self.left() > 0 { Ok(()) } else { Err(self.spent()) }
    }

    fn spent(&self) -> Denial {
        Denial::about(Rule::CapSent, &self.counter.rule)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counter.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The caps by which one connection, or one flow of UDP, counts.
#[derive(Default)]
pub struct Budget(Mutex<Vec<Share>>);

impl Budget {
    /// It is used for `purpose` as well, by the rule that is closest.
    ///
    /// # Errors
    /// The cap of that rule that is reached.
    pub fn join(
        &self,
        counters: &Counters,
        plan: &Egress,
        purpose: &Purpose,
        (to, protocol): (SocketAddr, Protocol),
    ) -> Result<(), Denial> {
        let Some(Capped { rule, caps }) = plan.capped(purpose, to, protocol) else { return Ok(()) };
        let mut shares = lock(&self.0);
        let at = match shares.iter().position(|share| share.counter.rule == *rule) {
            Some(at) => at,
            None => {
                shares.push(Share::take(counters.of(rule), *caps)?);
                shares.len() - 1
            }
        };
        let share = &mut shares[at];
        let used = (purpose.clone(), to);
        if !share.purposes.contains(&used) {
            share.purposes.push(used);
        }
        share.with_room()
    }

    /// Other rules are in force: it counts no more by those that are not the closest any more.
    pub fn judge_again(&self, plan: &Egress, protocol: Protocol) {
        lock(&self.0).retain_mut(|share| {
            let rule = &share.counter.rule;
            share.purposes.retain(|(purpose, to)| {
                plan.capped(purpose, *to, protocol).is_some_and(|capped| capped.rule == *rule)
            });
            !share.purposes.is_empty()
        });
    }

    /// How many bytes may still be sent.
    pub fn left(&self) -> u64 {
        lock(&self.0).iter().map(Share::left).min().unwrap_or(u64::MAX)
    }

    /// So many were.
    pub fn count(&self, bytes: usize) {
        for share in lock(&self.0).iter() {
            share.counter.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// The cap of which the least is left; `None` if it counts by none.
    pub fn spent(&self) -> Option<Denial> {
        lock(&self.0).iter().min_by_key(|share| share.left()).map(Share::spent)
    }

    /// The same, for who sends.
    pub fn error(&self) -> io::Error {
        self.spent().map_or_else(|| io::ErrorKind::Other.into(), |cap| io::Error::other(Spent(cap)))
    }
}

/// More was to be sent than a cap leaves.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Spent(pub Denial);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use agentd_policy::hosts::{HostName, HostPattern, HostRule, HostRules};
    use proptest::prelude::*;

    use super::*;

    fn to() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 443))
    }

    fn plan(list: &[(&str, Option<u32>, Option<u64>)]) -> Egress {
        let host = |text: &str| HostRule {
            host: HostPattern::parse(text).unwrap(),
            ports: vec![443],
            protocol: Protocol::Tcp,
            opaque: false,
        };
        let allow = list.iter().map(|(text, ..)| host(text)).collect();
        let caps = list.iter().filter(|(_, connections, sent)| connections.is_some() || sent.is_some()).map(
            |(text, connections, sent)| Capped {
                rule: AllowRule::Host(host(text)),
                caps: Caps { connections: *connections, sent: *sent },
            },
        );
        Egress { caps: caps.collect(), hosts: HostRules { deny: vec![], allow }, ..Egress::default() }
    }

    fn join(budget: &Budget, counters: &Counters, plan: &Egress, name: &str) -> Result<(), Denial> {
        let purpose = Purpose::Name(HostName::parse(name).unwrap());
        budget.join(counters, plan, &purpose, (to(), Protocol::Tcp))
    }

    #[test]
    fn a_place_is_free_again_whatever_became_of_it() {
        let (counters, plan) = (Counters::default(), plan(&[("*.example", Some(2), Some(10))]));
        let [one, two, three] = [(); 3].map(|()| Budget::default());
        join(&one, &counters, &plan, "a.example").unwrap();
        join(&one, &counters, &plan, "b.example").unwrap();
        join(&two, &counters, &plan, "b.example").unwrap();
        let refused = join(&three, &counters, &plan, "c.example").unwrap_err();
        assert_eq!(refused.to_string(), "cap.connections *.example:443");
        assert!(refused.is_cap() && three.left() == u64::MAX);
        drop(two);
        join(&three, &counters, &plan, "c.example").unwrap();
        three.count(10);
        drop(three);
        // One that finds nothing left takes no place.
        for _ in 0..3 {
            let late = Budget::default();
            let refused = join(&late, &counters, &plan, "d.example").unwrap_err();
            assert_eq!(refused.to_string(), "cap.sent *.example:443");
        }
        assert_eq!(counters.of(&plan.caps[0].rule).open.load(Ordering::Relaxed), 1);
        let refused = join(&one, &counters, &plan, "a.example").unwrap_err();
        assert_eq!(refused.to_string(), "cap.sent *.example:443");
    }

    #[test]
    fn bytes_count_by_every_rule_that_a_connection_is_used_by() {
        let plan =
            plan(&[("a.example", None, Some(10)), ("b.example", None, Some(4)), ("c.example", None, None)]);
        let (counters, both) = (Counters::default(), Budget::default());
        join(&both, &counters, &plan, "c.example").unwrap();
        assert_eq!(both.left(), u64::MAX);
        join(&both, &counters, &plan, "a.example").unwrap();
        both.count(3);
        join(&both, &counters, &plan, "b.example").unwrap();
        assert_eq!(both.left(), 4);
        both.count(4);
        let spent = both.spent().map(|cap| cap.to_string());
        assert_eq!((both.left(), spent.as_deref()), (0, Some("cap.sent b.example:443")));
        let other = Budget::default();
        join(&other, &counters, &plan, "a.example").unwrap();
        assert_eq!(other.left(), 3);
    }

    #[test]
    fn other_rules_lift_a_cap_and_begin_nothing_anew() {
        let before = plan(&[("*.example", None, Some(10))]);
        let (counters, budget) = (Counters::default(), Budget::default());
        join(&budget, &counters, &before, "a.example").unwrap();
        join(&budget, &counters, &before, "b.example").unwrap();
        budget.count(6);
        let mut after = plan(&[("*.example", None, Some(10)), ("a.example", None, None)]);
        budget.judge_again(&after, Protocol::Tcp);
        assert_eq!(budget.left(), 4);
        after.hosts.allow.extend(plan(&[("b.example", None, None)]).hosts.allow);
        budget.judge_again(&after, Protocol::Tcp);
        assert_eq!(budget.left(), u64::MAX);
        let late = Budget::default();
        join(&late, &counters, &after, "c.example").unwrap();
        assert_eq!(late.left(), 4);
    }

    proptest! {
        /// Whatever opens, sends and closes in whatever order: no more goes by than the caps say.
        #[test]
        fn never_more_than_the_caps(acts in prop::collection::vec((0_usize..8, 0_u8..4, 0_u64..40), 0..200)) {
            let (most, places) = (500, 3);
            let plan = plan(&[("*.example", Some(places), Some(most))]);
            let counters = Counters::default();
            let mut open: Vec<Option<Budget>> = (0..8).map(|_| None).collect();
            let mut sent = 0;
            for (who, act, bytes) in acts {
                match (&open[who], act) {
                    (None, _) => {
                        let budget = Budget::default();
                        let joined = join(&budget, &counters, &plan, &format!("n{who}.example"));
                        let others = open.iter().flatten().count();
                        prop_assert_eq!(joined.is_ok(), others < places as usize && sent < most);
                        open[who] = joined.is_ok().then_some(budget);
                    }
                    (Some(_), 0) => open[who] = None,
                    (Some(budget), _) => {
                        let count = bytes.min(budget.left());
                        budget.count(usize::try_from(count).unwrap());
                        sent += count;
                    }
                }
                prop_assert!(sent <= most);
            }
        }
    }
}
