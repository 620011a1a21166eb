//! What a session can take of the disk, by every way that we know of, and what that is to others: on a small file
//! system, which one session could fill.

mod held;
mod ways;

use std::io::Write as _;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use agentd_tests::harness::{
    Alone, Session, Setup, User, World, alone, run_alone, text_at, wait_for_exit, within,
};
use nix::sched::{CloneFlags, unshare};

use ways::{INODES, PRELUDE, WAYS};

/// The file system of `state_dir`.
const DISK: u64 = 400 << 20;
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if rustix::process::geteuid().is_root() {
        // What is mounted here is nobody else's, and goes with this process.
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
        let private = Command::new("mount").args(["--make-rprivate", "/"]).status();
        assert!(private.is_ok_and(|status| status.success()), "mounts of our own");
    }
    let mut tests: Vec<Alone> = Vec::new();
    for (name, script) in WAYS {
        add(&mut tests, &format!("watch::{name}"), move |world| too_much(world, script, "disk", "52428800"));
    }
    for (name, script) in INODES {
        add(&mut tests, &format!("watch::{name}"), move |world| too_much(world, script, "inodes", "12800"));
    }
    add(&mut tests, "watch::who_fills_the_disk_is_ended_and_nobody_else", fills_the_disk);
    add(&mut tests, "watch::what_others_write_ends_nobody", others_write);
    add(&mut tests, "watch::what_stays_below_the_limit_is_left_alone", below);
    add(&mut tests, "a_full_disk_takes_no_more_sessions", admission);
    held::add(&mut tests);
    run_alone("disk", Some(1), tests)
}

fn add(tests: &mut Vec<Alone>, name: &str, test: impl FnOnce(&World) + Send + 'static) {
    let setup = Setup::with("disk_limits = \"watch\"").on_disk("ext4", DISK);
    tests.push(alone(&format!("disk::{name}"), setup, test));
}

/// A session of another user that writes a little, reads a line, and says whether all was well.
struct Bystander<'a> {
    session: Session<'a>,
    user: &'a User,
    child: Child,
}

impl<'a> Bystander<'a> {
    fn start(world: &'a World) -> Self {
        let user = world.b();
        let session = Session::new(world, user, world.workspace(user)).options(["--disk", "20M"]);
        let child = session.spawn_ready(
            "echo ready; read line; for i in {1..20}; do echo $i > f$i && sync f$i || exit 9; done; exit 7",
        );
        Self { session, user, child }
    }

    /// It still lives, and can write.
    #[track_caller]
    fn lives_on(mut self, world: &World) {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"on\n").expect("it reads");
        let code = wait_for_exit(&mut self.child, LIMIT).expect("it ends").code();
        assert_eq!(code, Some(7), "{}", world.daemon().log());
        let events = world.all_events(self.user, self.session.name());
        let synced = events.iter().filter(|event| event["kind"] == "process.exec");
        assert!(synced.count() >= 20, "what it ran is on record: {events:#?}");
        assert_eq!(text_at(events.last().expect("an end"), "/kind"), "session.ended");
    }
}

fn python(world: &World, options: &[&str], script: &str) -> agentd_tests::harness::RunOutput {
    world.session().options(options).run(["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{script}")])
}

fn too_much(world: &World, script: &str, name: &str, limit: &str) {
    let other = Bystander::start(world);
    let output = python(world, &["--disk", "50M", "--timeout", "40s"], script).expect_code(125);
    assert!(!output.text().contains("still there"), "{}", output.text());
    let said = if name == "disk" { "50 MiB to its workspace (--disk)" } else { limit };
    assert!(output.stderr.contains(said), "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let hit = events.iter().find(|event| event["kind"] == "limit.hit").expect("a limit that was hit");
    assert_eq!((text_at(hit, "/limit/name"), text_at(hit, "/limit/limit")), (name.into(), limit.into()));
    other.lives_on(world);
}

/// Its limit is more than there is: one call takes all that is free.
fn fills_the_disk(world: &World) {
    for script in [
        "s = os.statvfs('.'); f = nameless()
while True:
    try: os.posix_fallocate(f, 0, s.f_bavail * s.f_frsize + (1 << 20))
    except OSError: s = os.statvfs('.')
    try: fill(f)
    except OSError: pass",
        "f = os.open('f', os.O_CREAT | os.O_RDWR)
while True:
    try: fill(f)
    except OSError: pass",
    ] {
        let other = Bystander::start(world);
        let busy = Session::new(world, world.b(), world.workspace(world.b())).options(["--disk", "20M"]);
        let mut runs = busy.spawn_ready("echo ready; for i in {1..300}; do /usr/bin/true; done; exit 8");
        let output = python(world, &["--disk", "10G", "--timeout", "40s"], script).expect_code(125);
        let events = world.all_events(world.a(), &output.name);
        let hit = events.iter().find(|event| event["kind"] == "limit.hit").expect("a limit that was hit");
        assert_eq!(text_at(hit, "/limit/name"), "disk_reserve", "{events:#?}");
        assert_eq!(text_at(events.last().expect("an end"), "/kind"), "session.ended");
        other.lives_on(world);
        // What ran while the disk was full is on record, each of it.
        assert_eq!(wait_for_exit(&mut runs, LIMIT).expect("it ends").code(), Some(8));
        let events = world.all_events(world.b(), busy.name());
        let ran = events.iter().filter(|event| event["exec"]["path"] == "/usr/bin/true").count();
        assert_eq!(ran, 300);
        world.agentctl(world.a(), ["rm", &output.name]).expect_code(0);
    }
}

/// Neither the host's programs nor another session make one end that has what it may have, also while it passes
/// descriptors about.
fn others_write(world: &World) {
    let script = "a, b = socket.socketpair(); f = nameless(); fill(f, 10 << 20)
print('ready', flush=True)
def pass_on(sock, end):
    while time.time() < end:
        fd = take(sock); park(sock, fd); os.close(fd); time.sleep(0.001)
end = time.time() + 600
park(a, f); os.close(f)
if os.fork() == 0: pass_on(a, end)
threading.Thread(target=pass_on, args=(b, end), daemon=True).start()
sys.stdin.readline()
sys.exit(5)";
    let session = world.session().options(["--disk", "50M"]);
    let mut child = session.spawn(["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{script}")]);
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut ready).expect("it is ready");
    let place = world.daemon().state().join("host");
    for _ in 0..3 {
        std::fs::write(&place, vec![1; 100 << 20]).expect("the disk has room");
        std::fs::remove_file(&place).expect("our own file");
    }
    let other = Session::new(world, world.b(), world.workspace(world.b())).options(["--disk", "200M"]);
    other.bash("head -c 100M /dev/zero > f; sleep 3").expect_code(0);
    child.stdin.as_mut().expect("a pipe").write_all(b"on\n").expect("it reads");
    let ended = wait_for_exit(&mut child, LIMIT).expect("it ends").code();
    assert_eq!(ended, Some(5), "{:#?}", world.all_events(world.a(), session.name()).last());
}

/// Much that counts little: a sparse file, hard links, what is deleted again, memory.
fn below(world: &World) {
    let script = "f = os.open('sparse', os.O_CREAT | os.O_RDWR); os.ftruncate(f, 1 << 40)
g = os.open('g', os.O_CREAT | os.O_RDWR); fill(g, 20 << 20)
for i in range(9): os.link('g', 'g%d' % i)
for i in range(30):
    h = nameless('h'); fill(h, 10 << 20); os.close(h)
m = os.open('/tmp', os.O_TMPFILE | os.O_RDWR, 0o600); fill(m, 60 << 20)
time.sleep(3)
sys.exit(6)";
    python(world, &["--disk", "50M"], script).expect_code(6);
}

fn admission(world: &World) {
    let place = world.daemon().state().join("host");
    let file = std::fs::File::create(&place).expect("a new file");
    let free = || {
        let stat = rustix::fs::statvfs(world.daemon().state()).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    };
    // A step at a time: the daemon gives back and takes room meanwhile, and a file system needs some for itself.
    let (mut size, mut step) = (0, DISK / 4);
    while step >= 1 << 20 {
        if free() < step + (4 << 20) {
            step /= 2;
        } else if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), size, step).is_ok() {
            size += step;
        } else {
            step /= 2;
        }
    }
    let output = world.session().run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(host.disk)"), "{}", output.stderr);
    std::fs::remove_file(&place).expect("our own file");
    drop(file);
    let ready = within(LIMIT, || if free() > DISK / 2 { Ok(()) } else { Err(free()) });
    assert_eq!(ready, Ok(()));
    world.session().run(["true"]).expect_code(0);
}
