//! What a session goes through, apart from everything that makes it so.

use agentd_policy::exit_reason::ExitReason;
use agentd_proto::v1::Exit;

/// Where a session is, once it was built.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its command runs.
    Running { drained: bool, ending: Ending },
    /// Its command ended; not all of its output has come.
    Draining { exit: Exit, gone: bool },
    /// It has ended for its clients; the launcher clears up.
    Ended { exit: Exit },
    /// Nothing of it is left but its overlay, if it has one.
    Cleared { exit: Exit },
}

/// Whether it was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    No,
    /// Its command was, and has a while for it.
    Stopping,
    /// The whole of it was.
    Killing,
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A client asked its command to end.
    Stop,
    /// A client asked for its end, or it has no client any more.
    Kill,
    /// What was to happen soon did not.
    Overdue,
    /// Its keeper reported how it ended, and that is on record.
    Ended(Exit),
    /// Its keeper is gone without a word.
    KeeperLost,
    /// All output has come, or no more will.
    Drained,
    /// The launcher reports that nothing of it is left.
    Gone,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Show that it is ending.
    Announce,
    /// SessionRequest its command to end, and be back with [`Input::Overdue`] if it does not.
    AskCommand,
    /// Have the keeper end it, and be back with [`Input::Overdue`] if it does not.
    AskKeeper,
    /// Have the launcher end it, and be back with [`Input::Overdue`] if it does not.
    AskLauncher,
    /// Write down that it failed.
    Record(Exit),
    /// Wait for the rest of the output, but not for ever.
    AwaitDrain,
    /// Publish its exit, and wait for the launcher.
    Publish(Exit),
    /// Nothing more will come.
    Finish,
}

impl State {
    /// A session that was just built.
    pub fn running() -> Self {
        Self::Running { drained: false, ending: Ending::No }
    }

    /// What `input` makes of it.
    pub fn step(self, input: Input) -> (Self, Vec<Action>) {
        use Action::{Announce, AskCommand, AskKeeper, AskLauncher, AwaitDrain, Finish, Publish, Record};
        match (self, input) {
            (Self::Running { drained, ending: Ending::No }, Input::Stop) => {
                (Self::Running { drained, ending: Ending::Stopping }, vec![Announce, AskCommand])
            }
            (Self::Running { drained, ending: Ending::Stopping }, Input::Stop) => {
                (Self::Running { drained, ending: Ending::Stopping }, vec![AskCommand])
            }
            (Self::Running { drained, ending: Ending::No }, Input::Kill) => {
                (Self::Running { drained, ending: Ending::Killing }, vec![Announce, AskKeeper])
            }
            (Self::Running { drained, ending: Ending::Stopping }, Input::Kill | Input::Overdue) => {
                (Self::Running { drained, ending: Ending::Killing }, vec![AskKeeper])
            }
            (running @ Self::Running { ending: Ending::Killing, .. }, Input::Overdue) => {
                (running, vec![AskLauncher])
            }
            (Self::Running { ending, .. }, Input::Drained) => {
                (Self::Running { drained: true, ending }, vec![])
            }
            (Self::Running { drained: true, .. }, Input::Ended(exit)) => {
                (Self::Ended { exit: exit.clone() }, vec![Publish(exit)])
            }
            (Self::Running { .. }, Input::Ended(exit)) => {
                (Self::Draining { exit, gone: false }, vec![AwaitDrain])
            }
            (Self::Running { drained, .. }, Input::KeeperLost) => {
                let exit = failed("the session's keeper is gone");
                let mut actions = vec![AskLauncher, Record(exit.clone())];
                if drained {
                    actions.push(Publish(exit.clone()));
                    return (Self::Ended { exit }, actions);
                }
                actions.push(AwaitDrain);
                (Self::Draining { exit, gone: false }, actions)
            }
            (Self::Running { drained, .. }, Input::Gone) => {
                let exit = failed("the session was cleared away before it said how it ended");
                if drained {
                    return (
                        Self::Cleared { exit: exit.clone() },
                        vec![Record(exit.clone()), Publish(exit), Finish],
                    );
                }
                (Self::Draining { exit: exit.clone(), gone: true }, vec![Record(exit), AwaitDrain])
            }
            (Self::Draining { exit, gone: false }, Input::Drained | Input::Overdue) => {
                (Self::Ended { exit: exit.clone() }, vec![Publish(exit)])
            }
            (Self::Draining { exit, gone: true }, Input::Drained | Input::Overdue) => {
                (Self::Cleared { exit: exit.clone() }, vec![Publish(exit), Finish])
            }
            (Self::Draining { exit, .. }, Input::Gone) => {
                (Self::Draining { exit, gone: true }, vec![AwaitDrain])
            }
            (Self::Ended { exit }, Input::Gone) => (Self::Cleared { exit }, vec![Finish]),
            (ended @ Self::Ended { .. }, Input::Overdue) => (ended, vec![AskLauncher]),
            (same, _) => (same, vec![]),
        }
    }
}

/// The end of a session that did not come to a proper one.
pub fn failed(message: &str) -> Exit {
    Exit { reason: ExitReason::Failed.as_str().into(), code: None, signal: None, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exit() -> Exit {
        Exit { reason: "exited".into(), code: Some(3), signal: None, message: String::new() }
    }

    fn walk(inputs: &[Input]) -> (State, Vec<Action>) {
        inputs.iter().cloned().fold((State::running(), vec![]), |(state, mut actions), input| {
            let (state, more) = state.step(input);
            actions.extend(more);
            (state, actions)
        })
    }

    #[test]
    fn the_exit_waits_for_the_output() {
        let (state, actions) = walk(&[Input::Ended(exit())]);
        assert_eq!(
            (state, actions),
            (State::Draining { exit: exit(), gone: false }, vec![Action::AwaitDrain])
        );
        for order in [[Input::Ended(exit()), Input::Drained], [Input::Drained, Input::Ended(exit())]] {
            let (state, actions) = walk(&order);
            assert_eq!(state, State::Ended { exit: exit() });
            assert_eq!(actions.last(), Some(&Action::Publish(exit())));
        }
    }

    #[test]
    fn a_kill_is_asked_for_once_and_then_forced() {
        let (_, actions) = walk(&[Input::Kill, Input::Kill, Input::Stop, Input::Overdue]);
        assert_eq!(actions, [Action::Announce, Action::AskKeeper, Action::AskLauncher]);
    }

    #[test]
    fn a_stop_becomes_a_kill_when_its_time_is_over() {
        let (state, actions) = walk(&[Input::Stop, Input::Overdue, Input::Overdue]);
        assert_eq!(actions, [Action::Announce, Action::AskCommand, Action::AskKeeper, Action::AskLauncher]);
        assert_eq!(state, State::Running { drained: false, ending: Ending::Killing });
    }

    #[test]
    fn an_end_without_a_word_is_a_failure() {
        for lost in [Input::KeeperLost, Input::Gone] {
            let (state, actions) = walk(&[lost, Input::Drained]);
            let published =
                actions.iter().find_map(|a| if let Action::Publish(exit) = a { Some(exit) } else { None });
            assert_eq!(published.map(|exit| exit.reason.as_str()), Some("failed"));
            assert!(matches!(state, State::Ended { .. } | State::Cleared { .. }));
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        proptest::sample::select(vec![
            Input::Stop,
            Input::Kill,
            Input::Overdue,
            Input::Ended(exit()),
            Input::KeeperLost,
            Input::Drained,
            Input::Gone,
        ])
    }

    proptest! {
        #[test]
        fn published_once_recorded_at_most_once_and_finished_last(inputs in proptest::collection::vec(any_input(), 0..12)) {
            let (state, actions) = walk(&inputs);
            let count = |f: fn(&Action) -> bool| actions.iter().filter(|a| f(a)).count();
            let published = count(|a| matches!(a, Action::Publish(_)));
            prop_assert!(published <= 1 && count(|a| matches!(a, Action::Record(_))) <= 1);
            prop_assert!(count(|a| matches!(a, Action::Announce)) <= 1);
            prop_assert!(count(|a| matches!(a, Action::AskKeeper)) <= 1);
            prop_assert_eq!(published == 1, matches!(state, State::Ended { .. } | State::Cleared { .. }));
            let finished = actions.iter().position(|a| *a == Action::Finish);
            prop_assert_eq!(finished.is_some(), matches!(state, State::Cleared { .. }));
            if let Some(at) = finished {
                prop_assert_eq!(at, actions.len() - 1);
            }
            // Whatever happened, these end it.
            let rest = [Input::Gone, Input::Drained];
            let (state, _) = walk(&[inputs, rest.to_vec()].concat());
            let over = matches!(state, State::Cleared { .. });
            prop_assert!(over);
        }
    }
}
