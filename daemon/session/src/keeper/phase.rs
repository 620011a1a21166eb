//! What a session goes through, apart from everything that makes it so: states and transitions, without I/O.

use std::time::{Duration, Instant};

use agentd_policy::event::End;

/// How long the relay may take to deliver to a service that is there what the command left behind.
const RELAY_DRAIN: Duration = Duration::from_secs(40);
/// How long the relay may take to report the connections that ended with the session.
const REPORT: Duration = Duration::from_secs(1);
/// How long a service that is there may take to write the last events down.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Where a session is. It only goes forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its processes run, or are about to.
    Running,
    /// They are killed, for this reason.
    Ending { end: End },
    /// None is left. Until then the relay reports connections that ended with it; `searched` says whether the search
    /// of its workspaces is over.
    Reporting { end: End, until: Instant, searched: bool },
    /// That search alone keeps the last event back.
    Searching { end: End },
    /// The last event is recorded, since then.
    Ended { at: Instant },
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is to end.
    End(End),
    /// Its pid 1 is gone, and with it every process; `reports` says whether a relay has connections to report.
    Emptied {
        reports: bool,
    },
    /// The relay has reported all of them, or is gone.
    Reported,
    /// The search of its workspaces is over.
    Searched,
    Clock,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kill every process of the session.
    Kill,
    /// Record how it ended, as its last event.
    Record(End),
}

/// What is left of an ended session, and who takes its last events.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    /// Whether its pid 1, its relay and its meter are.
    pub init: bool,
    pub relay: bool,
    pub meter: bool,
    /// Whether the relay still has its control socket, without which it ends.
    pub control: bool,
    /// Whether every event is acknowledged.
    pub acknowledged: bool,
    /// Since when a service is connected, if one is.
    pub service: Option<Instant>,
}

impl Phase {
    /// What `input` makes of it at `now`.
    pub fn step(self, input: Input, now: Instant) -> (Self, Option<Action>) {
        match (self, input) {
            (Self::Running, Input::End(end)) => (Self::Ending { end }, Some(Action::Kill)),
            (Self::Running, Input::Emptied { reports }) => Self::emptied(End::Killed, reports, now),
            (Self::Ending { end }, Input::Emptied { reports }) => Self::emptied(end, reports, now),
            (Self::Reporting { end, until, .. }, Input::Searched) => {
                (Self::Reporting { end, until, searched: true }, None)
            }
            (Self::Reporting { end, searched, .. }, Input::Reported) => Self::reported(end, searched, now),
            (Self::Reporting { end, until, searched }, Input::Clock) if until <= now => {
                Self::reported(end, searched, now)
            }
            (Self::Searching { end }, Input::Searched) => Self::reported(end, true, now),
            (same, _) => (same, None),
        }
    }

    fn emptied(end: End, reports: bool, now: Instant) -> (Self, Option<Action>) {
        match reports {
            true => (Self::Reporting { end, until: now + REPORT, searched: false }, None),
            false => (Self::Searching { end }, None),
        }
    }

    fn reported(end: End, searched: bool, now: Instant) -> (Self, Option<Action>) {
        match searched {
            true => (Self::Ended { at: now }, Some(Action::Record(end))),
            false => (Self::Searching { end }, None),
        }
    }

    /// Whether it is not ending.
    pub fn is_running(&self) -> bool {
        *self == Self::Running
    }

    /// Whether its last event is recorded.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// When time alone changes it.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Reporting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Since when the service could have taken what is left; `None` as long as there is no service, or no end.
    fn offered_since(&self, remains: &Remains) -> Option<Instant> {
        match self {
            Self::Ended { at } => remains.service.map(|since| since.max(*at)),
            _ => None,
        }
    }

    /// Whether the relay had its time: nobody takes what it still holds.
    pub fn gives_relay_up(&self, remains: &Remains, now: Instant) -> bool {
        self.offered_since(remains).is_some_and(|since| now >= since + RELAY_DRAIN)
    }

    /// When to look at what is left again.
    pub fn remains_due(&self, remains: &Remains) -> Option<Instant> {
        let waits = if remains.relay { RELAY_DRAIN } else { LAST_EVENTS };
        // What is about to end does so without a clock.
        let ending = remains.relay && !remains.control || remains.meter;
        self.offered_since(remains).filter(|_| !ending).map(|since| since + waits)
    }

    /// Whether nothing of the session is left, and the service knows all of it. As long as there is no service, one is
    /// waited for.
    pub fn is_finished(&self, remains: &Remains, now: Instant) -> bool {
        let gone = !remains.init && !remains.relay && !remains.meter;
        let late = self.offered_since(remains).is_some_and(|since| now >= since + LAST_EVENTS);
        self.is_ended() && gone && (remains.acknowledged || late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inputs() -> impl Strategy<Value = Input> {
        let ends =
            prop_oneof![Just(End::Killed), Just(End::Timeout), Just(End::Idle), Just(End::OutOfMemory)];
        prop_oneof![
            ends.prop_map(Input::End),
            any::<bool>().prop_map(|reports| Input::Emptied { reports }),
            Just(Input::Reported),
            Just(Input::Searched),
            Just(Input::Clock),
        ]
    }

    fn rank(phase: &Phase) -> u8 {
        match phase {
            Phase::Running => 0,
            Phase::Ending { .. } => 1,
            Phase::Reporting { .. } => 2,
            Phase::Searching { .. } => 3,
            Phase::Ended { .. } => 4,
        }
    }

    fn gone() -> Remains {
        Remains {
            init: false,
            relay: false,
            meter: false,
            control: false,
            acknowledged: false,
            service: None,
        }
    }

    proptest! {
        /// Whatever happens in whatever order: the first reason is the one that is recorded, once, and not before
        /// every process is gone; nothing goes back.
        #[test]
        fn the_first_reason_is_recorded_once_and_last(
            steps in proptest::collection::vec((inputs(), 0_u64..2000), 0..40)
        ) {
            let (mut phase, mut now) = (Phase::Running, Instant::now());
            let (mut first, mut emptied, mut kills, mut records) = (None, false, 0, Vec::new());
            for (input, millis) in steps {
                now += Duration::from_millis(millis);
                let (before, was_running) = (rank(&phase), phase.is_running());
                match &input {
                    Input::End(end) if was_running => first = first.or(Some(end.clone())),
                    Input::Emptied { .. } => {
                        emptied = true;
                        if was_running {
                            first = Some(End::Killed);
                        }
                    }
                    _ => {}
                }
                let (next, action) = phase.step(input, now);
                phase = next;
                prop_assert!(rank(&phase) >= before);
                match action {
                    Some(Action::Kill) => {
                        prop_assert!(was_running);
                        kills += 1;
                    }
                    Some(Action::Record(end)) => {
                        prop_assert!(emptied && phase.is_ended());
                        records.push(end);
                    }
                    None => {}
                }
                prop_assert_eq!(phase.is_ended(), records.len() == 1);
            }
            prop_assert!(kills <= 1 && records.len() <= 1);
            if let Some(end) = records.pop() {
                prop_assert_eq!(Some(end), first);
            }
            // From wherever it is, this leads to its end.
            for input in [Input::End(End::Killed), Input::Emptied { reports: true }, Input::Searched] {
                (phase, _) = phase.step(input, now);
            }
            (phase, _) = phase.step(Input::Clock, now + REPORT);
            (phase, _) = phase.step(Input::Searched, now + REPORT);
            prop_assert!(phase.is_ended());
        }
    }

    #[test]
    fn a_relay_reports_nothing_of_a_session_that_runs() {
        let now = Instant::now();
        for input in [Input::Reported, Input::Searched, Input::Clock] {
            assert_eq!(Phase::Running.step(input, now), (Phase::Running, None));
        }
        let ending = Phase::Ending { end: End::Timeout };
        assert_eq!(ending.clone().step(Input::Reported, now), (ending, None));
    }

    #[test]
    fn the_last_event_waits_for_the_relay_and_the_search() {
        let now = Instant::now();
        let ending = || Phase::Ending { end: End::Timeout };
        let record = Some(Action::Record(End::Timeout));
        let (phase, _) = ending().step(Input::Emptied { reports: true }, now);
        assert_eq!(phase.due(), Some(now + REPORT));
        let (phase, action) = phase.step(Input::Searched, now);
        assert_eq!(action, None);
        assert_eq!(phase.clone().step(Input::Clock, now).1, None);
        assert_eq!(phase.clone().step(Input::Reported, now), (Phase::Ended { at: now }, record.clone()));
        assert_eq!(phase.step(Input::Clock, now + REPORT).1, record);
        let (phase, action) = ending().step(Input::Emptied { reports: false }, now);
        assert_eq!((phase.due(), action), (None, None));
        assert_eq!(phase.step(Input::Searched, now), (Phase::Ended { at: now }, record));
    }

    #[test]
    fn an_ended_session_waits_for_a_service_and_then_not_for_ever() {
        let at = Instant::now();
        let (ended, later) = (Phase::Ended { at }, at + Duration::from_secs(3600));
        assert!(!ended.is_finished(&gone(), later) && ended.remains_due(&gone()).is_none());
        assert!(ended.is_finished(&Remains { acknowledged: true, ..gone() }, at));
        let came = at + Duration::from_secs(60);
        let served = Remains { service: Some(came), ..gone() };
        assert_eq!(ended.remains_due(&served), Some(came + LAST_EVENTS));
        assert!(!ended.is_finished(&served, came) && ended.is_finished(&served, came + LAST_EVENTS));
        for left in [
            Remains { init: true, ..served },
            Remains { relay: true, ..served },
            Remains { meter: true, ..served },
        ] {
            assert!(!ended.is_finished(&Remains { acknowledged: true, ..left }, later));
        }
        let relay = Remains { relay: true, control: true, ..served };
        assert_eq!(ended.remains_due(&relay), Some(came + RELAY_DRAIN));
        assert!(!ended.gives_relay_up(&relay, came) && ended.gives_relay_up(&relay, came + RELAY_DRAIN));
        assert_eq!(ended.remains_due(&Remains { control: false, ..relay }), None);
        assert!(!Phase::Running.gives_relay_up(&relay, later));
    }
}
