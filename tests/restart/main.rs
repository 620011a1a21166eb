//! SIGKILL to each of service, launcher, keeper, relay, init and client, at each moment: what comes of it is the
//! table in `table.md`, line by line.

mod moments;
mod watch;

use std::process::ExitCode;

use agentd_tests::harness::{Alone, Setup, World, alone, run_alone};

use crate::moments::{Moment, Outcome};

/// Most of a test's time is waiting.
const AT_A_TIME: usize = 4;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Service,
    ServiceByHand,
    Launcher,
    Both,
    Upgrade,
    Keeper,
    Relay,
    Init,
    Scope,
    Client,
}

impl Victim {
    fn parse(text: &str) -> Self {
        match text {
            "service" => Self::Service,
            "service by hand" => Self::ServiceByHand,
            "launcher" => Self::Launcher,
            "service and launcher" => Self::Both,
            "upgrade" => Self::Upgrade,
            "keeper" => Self::Keeper,
            "relay" => Self::Relay,
            "init" => Self::Init,
            "scope" => Self::Scope,
            "client" => Self::Client,
            other => panic!("table.md: nobody is called {other:?}"),
        }
    }

    /// Whether it is of one session.
    fn is_of_a_session(self) -> bool {
        matches!(self, Self::Keeper | Self::Relay | Self::Init | Self::Scope)
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    victim: Victim,
    moment: Moment,
    expected: Outcome,
}

fn rows() -> Vec<Row> {
    let table = include_str!("table.md");
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [victim, moment, session, client] = cells[..] else { panic!("table.md: {line}") };
            Row {
                name: format!("restart::{}::{moment}", victim.replace(' ', "_")),
                victim: Victim::parse(victim),
                moment: Moment::parse(moment),
                expected: Outcome { session: session.into(), client: client.into() },
            }
        })
        .collect()
}

impl Row {
    fn setup(&self) -> Setup {
        // Whoever is killed before a session is asked for has to be there already.
        let waiting = self.victim.is_of_a_session() && self.moment == Moment::Before;
        let setup = Setup::with(if waiting { "prewarmed_sessions = 2" } else { "prewarmed_sessions = 0" });
        if self.victim == Victim::ServiceByHand { setup } else { setup.as_units() }
    }

    fn test(self) -> Alone {
        alone(&self.name.clone(), self.setup(), move |world: &World| {
            let outcome = self.moment.happens(world, self.victim);
            assert_eq!(outcome, self.expected, "{}", self.name);
        })
    }
}

fn main() -> ExitCode {
    let rows = rows();
    assert!(rows.len() > 30, "the table is not read");
    run_alone("restart", Some(AT_A_TIME), rows.into_iter().map(Row::test).collect())
}
