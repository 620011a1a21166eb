//! SIGKILL at random moments to every process that there is of agentd, while sessions come and go: it starts again,
//! sessions run, and in the end nothing is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use agentd_tests::harness::{Alone, Part, Setup, World, alone, kill, wait_for_exit, within};

use crate::UNPREPARED;

/// How many kills there are; the long form is `AGENTD_TEST_KILLS=300`.
const KILLS: usize = 40;
/// How many launchers are killed while they start.
const STARTS: usize = 40;
/// The latest moment of a kill after the one before, in milliseconds.
const LATEST: u64 = 40;
/// Clients that run one session after the other meanwhile.
const CLIENTS: usize = 3;
/// What ends a session whose service or launcher was killed can take its whole grace.
const GONE: Duration = Duration::from_secs(20);

/// The tests of this file.
pub fn tests() -> Vec<Alone> {
    let units = || Setup::with(UNPREPARED).as_units();
    vec![
        alone("recovery::launchers_killed_while_they_start_keep_no_other_out", units(), starting),
        alone("recovery::the_kill_loop_leaves_nothing", units(), every_process),
    ]
}

fn wanted(most: usize) -> usize {
    let asked = std::env::var("AGENTD_TEST_KILLS").ok();
    asked.map_or(most, |count| count.parse().expect("AGENTD_TEST_KILLS is a number"))
}

/// Moments and victims, the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    /// By the clock, unless `AGENTD_TEST_SEED` says which.
    fn new() -> Self {
        let clock = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos();
        let seed = std::env::var("AGENTD_TEST_SEED").ok();
        let seed = seed.map_or(u64::from(clock), |seed| seed.parse().expect("AGENTD_TEST_SEED is a number"));
        eprintln!("AGENTD_TEST_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("it is below a length")
    }

    fn pause(&mut self, (first, last): (u64, u64)) -> Duration {
        Duration::from_micros(first * 1000 + self.below((last - first) * 1000))
    }
}

fn starting(world: &World) {
    let before = crate::settled(world);
    let daemon = world.daemon();
    let mut dice = Dice::new();
    daemon.kill(Part::Launcher);
    for _ in 0..wanted(STARTS) {
        daemon.kill_while_it_starts(dice.pause((2, 30)));
    }
    // One starts at once: nothing of those that were killed holds anything that it needs.
    daemon.begin(&[Part::Launcher]);
    world.session().option("--rm").run(["true"]).expect_code(0);
    before.assert_same_within(daemon, GONE);
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Launcher,
    StartingLauncher,
    Service,
    Keeper,
    Relay,
    Init,
    Child,
}

const VICTIMS: [Victim; 7] = [
    Victim::Launcher,
    Victim::StartingLauncher,
    Victim::Service,
    Victim::Keeper,
    Victim::Relay,
    Victim::Init,
    Victim::Child,
];

impl Victim {
    /// Kills, and starts again what a service manager would. Whether there was one to kill.
    fn strike(self, world: &World, dice: &mut Dice) -> bool {
        let daemon = world.daemon();
        let mut parts = daemon.parts(world.a());
        let chosen = if parts.is_empty() { 0 } else { dice.index(parts.len()) };
        let mut part = || if parts.is_empty() { None } else { Some(parts.swap_remove(chosen)) };
        let pid = match self {
            Self::Launcher | Self::StartingLauncher => {
                daemon.kill(Part::Launcher);
                if let Self::StartingLauncher = self {
                    daemon.kill_while_it_starts(dice.pause((2, 30)));
                }
                daemon.begin(&[Part::Launcher]);
                return true;
            }
            Self::Service => {
                daemon.kill(Part::Service);
                daemon.begin(&[Part::Service]);
                return true;
            }
            // A builder until the session is built.
            Self::Keeper => part().and_then(|parts| parts.keeper),
            Self::Relay => part().and_then(|parts| parts.relay),
            Self::Init => part().and_then(|parts| parts.init),
            // What deletes, closes, and prepares.
            Self::Child => {
                let children = daemon.children();
                let at = if children.is_empty() { 0 } else { dice.index(children.len()) };
                children.get(at).copied()
            }
        };
        pid.map(kill).is_some()
    }
}

fn every_process(world: &World) {
    let before = crate::settled(world);
    let mut dice = Dice::new();
    let (over, runs, good) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut killed = [0; VICTIMS.len()];
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (over, runs, good) = (&over, &runs, &good);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let script = ["echo x > f; true", "sleep 0.05", "mkdir -p a/b; sleep 0.01"][client % 3];
                    let session = world.session().option("--rm");
                    let mut child = session.spawn(["bash", "-c", script]);
                    // What becomes of a session whose parts are killed is the table of the restart suite.
                    let ended = wait_for_exit(&mut child, GONE * 3)
                        .expect("agentctl ends, whichever process is killed");
                    runs.fetch_add(1, Ordering::Relaxed);
                    good.fetch_add(usize::from(ended.success()), Ordering::Relaxed);
                }
            });
        }
        // The clients end with the loop, also with one that fails.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut count = 0;
            while count < wanted(KILLS) {
                std::thread::sleep(dice.pause((0, LATEST)));
                let victim = dice.index(VICTIMS.len());
                if VICTIMS[victim].strike(world, &mut dice) {
                    (killed[victim], count) = (killed[victim] + 1, count + 1);
                }
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let killed: Vec<_> = VICTIMS.iter().zip(killed).collect();
    eprintln!("{runs:?} sessions, {good:?} of them to their end; killed: {killed:?}");
    world.session().option("--rm").run(["true"]).expect_code(0);
    let quiet = within(GONE, || {
        let running = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
        if running.is_empty() { Ok(()) } else { Err(running) }
    });
    assert_eq!(quiet, Ok(()), "sessions go on that nobody has");
    forget(world);
    before.assert_same_within(world.daemon(), GONE);
}

/// Deletes what is on record of sessions whose clients received no end.
fn forget(world: &World) {
    let left = world.agentctl(world.a(), ["ps", "-a", "--json"]).expect_code(0).text();
    for line in left.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let id = row["id"].as_str().expect("an id").to_owned();
        world.agentctl(world.a(), ["rm", &id]).expect_code(0);
    }
}
