//! The same where the kernel holds the limit, by an image for each session or by project quotas: it refuses, the
//! session goes on, and the record says so.

use std::process::Command;

use agentd_tests::harness::{Alone, Setup, World, alone, text_at, within};

use crate::ways::{INODES, WAYS};
use crate::{Bystander, DISK, LIMIT, python};

/// Ways that report the refusal themselves: not by a signal, nor in a thread or a child.
const TOLD: [&str; 13] = [
    "empty_files",
    "symbolic_links",
    "named",
    "unlinked",
    "unlinked_slowly",
    "replaced",
    "never_linked",
    "allocated",
    "many_small_ones",
    "parked",
    "parked_before_it_grows",
    "parked_in_what_is_parked",
    "parked_before_it_is_accepted",
];

/// A test's name, its daemon, and why it cannot be on this host.
type Form = (&'static str, fn() -> Setup, fn() -> Option<&'static str>);

const FORMS: [Form; 3] = [
    ("image", || Setup::with("disk_limits = \"image\"").on_disk("ext4", DISK), || None),
    ("quota_of_an_image", || Setup::with("disk_limits = \"quota\"").on_disk("ext4", DISK), no_quotas),
    ("quota_of_the_disk", || Setup::with("disk_limits = \"quota\"").on_disk("xfs", DISK), no_quotas),
];

fn no_quotas() -> Option<&'static str> {
    // It is loaded at its first use, or was built in.
    Command::new("modprobe").args(["-q", "xfs"]).status().ok();
    let has = std::path::Path::new("/proc/fs/xfs/xqmstat").exists();
    (!has).then_some("this kernel's xfs has no quotas")
}

pub(crate) fn add(tests: &mut Vec<Alone>) {
    for (form, setup, missing) in FORMS {
        let missing = missing();
        let mut add = |name: &str, test: Box<dyn FnOnce(&World) + Send>| {
            tests.push(alone(&format!("disk::{form}::{name}"), setup(), test).unless(missing));
        };
        for (name, script) in WAYS.iter().filter(|(name, _)| TOLD.contains(name)) {
            add(name, Box::new(move |world| refused(world, script, "disk", "52428800")));
        }
        for (name, script) in INODES.iter().filter(|(name, _)| TOLD.contains(name)) {
            add(name, Box::new(move |world| refused(world, script, "inodes", "12800")));
        }
        add("written_by_mapping", Box::new(mapped));
        add("who_fills_the_disk_is_held_and_nobody_else", Box::new(fills));
        add("is_said_by_inspect", Box::new(move |world| inspected(world, form)));
        match form {
            "image" => {
                add("goes_with_its_session", Box::new(goes));
                add("takes_its_room_at_once", Box::new(takes));
            }
            _ => {
                add("a_project_cannot_be_left", Box::new(project));
                add("is_found_again_by_the_next_launcher", Box::new(again));
            }
        }
    }
}

/// What is free is less than what all may have: nobody is ended for that.
fn fills(world: &World) {
    let other = Bystander::start(world);
    let script = "f = os.open('f', os.O_CREAT | os.O_RDWR)
try:
    while True: fill(f)
except OSError as error: print(error.errno)
time.sleep(2)
sys.exit(4)";
    let output = python(world, &["--disk", "250M", "--timeout", "40s"], script).expect_code(4);
    assert_eq!(output.text(), "28\n");
    other.lives_on(world);
}

fn inspected(world: &World, form: &str) {
    let form = form.split('_').next().expect("a word");
    let output = world.session().options(["--disk", "20M"]).run(["true"]).expect_code(0);
    let said = world.agentctl(world.a(), ["inspect", &output.name]).expect_code(0).text();
    assert!(said.contains(&format!("{form}: what exceeds it is refused")), "{said}");
}

/// The owner of a file may change its project, outside a user namespace: nothing of a session's is within an owner's
/// reach there, and inside it is refused.
fn project(world: &World) {
    let script = "import fcntl
f = os.open('f', os.O_CREAT | os.O_RDWR); d = os.open('.', os.O_RDONLY)
for fd in (f, d):
    x = bytearray(28)
    fcntl.ioctl(fd, 0x801c581f, x)
    old = bytes(x)
    assert int.from_bytes(old[12:16], 'little') >= 1 << 30, 'in no project'
    for change in (12, 0):
        y = bytearray(old); y[change:change + 4] = (4242 if change == 12 else 0).to_bytes(4, 'little')
        try: fcntl.ioctl(fd, 0x401c5820, bytes(y))
        except OSError: pass
        fcntl.ioctl(fd, 0x801c581f, x)
        assert bytes(x) == old, 'changed'
print('held')";
    let output = python(world, &["--disk", "50M"], script).expect_code(0);
    assert_eq!(output.text(), "held\n");
}

/// A launcher that is started again finds the image that sessions use, and bounds new ones in it.
fn again(world: &World) {
    let session = world.session().options(["--disk", "50M"]);
    let mut child = session.spawn_ready("echo ready; read line; echo x > f && exit 3");
    world.daemon().kill(agentd_tests::harness::Part::Launcher);
    world.daemon().begin(&[agentd_tests::harness::Part::Launcher]);
    refused(world, "f = nameless(); fill(f); hold()", "disk", "52428800");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

/// The agent sees an ordinary error, goes on, and ends as it likes; that it was refused is on record.
fn refused(world: &World, script: &str, name: &str, limit: &str) {
    // One request for more than there is leaves room, and nothing to see afterwards.
    let at_once = script.contains("posix_fallocate");
    let other = Bystander::start(world);
    let script = script.replace('\n', "\n    ");
    let script = format!(
        "try:\n    {script}\nexcept OSError as error:\n    print(error.errno, flush=True)\ntime.sleep(2)\nsys.exit(3)"
    );
    let output = python(world, &["--disk", "50M", "--timeout", "40s"], &script).expect_code(3);
    assert_eq!(output.text(), "28\n", "{}", output.stderr);
    if !at_once {
        recorded(world, &output.name, name, limit);
    }
    other.lives_on(world);
}

fn recorded(world: &World, session: &str, name: &str, limit: &str) {
    let events = world.all_events(world.a(), session);
    let hits: Vec<_> = events.iter().filter(|event| event["kind"] == "limit.hit").collect();
    let [hit] = hits[..] else { panic!("one limit that was hit: {events:#?}") };
    assert_eq!((text_at(hit, "/limit/name"), text_at(hit, "/limit/limit")), (name.into(), limit.into()));
    assert_eq!(text_at(events.last().expect("an end"), "/lifecycle/reason"), "exited");
}

/// A page that finds no room is a signal.
fn mapped(world: &World) {
    let script = "if os.fork() == 0:
    f = nameless(); os.ftruncate(f, SIZE); m = mmap.mmap(f, SIZE); os.close(f)
    for at in range(0, SIZE, 4096): m[at] = 1
    os._exit(0)
print(os.wait()[1] & 127)";
    let output = python(world, &["--disk", "50M"], script).expect_code(0);
    assert_eq!(output.text(), "7\n", "SIGBUS");
}

/// Files that loop devices of this test's are over.
fn attached(world: &World) -> Vec<String> {
    let listed = Command::new("losetup").args(["-n", "-O", "BACK-FILE"]).output().expect("losetup");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let dir = world.daemon().state().display().to_string();
    text.lines().map(str::trim).filter(|line| line.starts_with(&dir)).map(str::to_owned).collect()
}

fn goes(world: &World) {
    let session = world.session().options(["--disk", "20M"]);
    let mut child =
        session.spawn_ready("echo kept > f; df -B1 --output=size . | tail -1 > size; echo ready; read line");
    let id = text_at(&world.events(world.a(), session.name())[0], "/session");
    let image = world.daemon().state().join(format!("overlays/u{}/{id}/image", world.a().uid));
    let size = std::fs::metadata(&image).expect("its image").len();
    assert!((20 << 20..40 << 20).contains(&size), "{size}");
    assert_eq!(attached(world).len(), 1);
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let gone = within(LIMIT, || if attached(world).is_empty() { Ok(()) } else { Err(attached(world)) });
    assert_eq!(gone, Ok(()), "a loop device stays");
    assert!(image.exists(), "what it wrote is kept");
    world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
    assert!(!image.exists());
    // With --rm nothing stays.
    let output = world.session().options(["--disk", "20M", "--rm"]).bash("echo x > f").expect_code(0);
    let kept = || std::fs::read_dir(world.daemon().state().join(format!("overlays/u{}", world.a().uid)));
    let gone = within(LIMIT, || match kept().map_or(0, Iterator::count) {
        0 => Ok(()),
        left => Err(left),
    });
    assert_eq!(gone, Ok(()), "{}", output.name);
}

/// What it was promised is taken from the disk at its start: who comes after it is refused what is not there.
fn takes(world: &World) {
    let session = world.session().options(["--disk", "200M"]);
    let mut child = session.spawn_ready("echo ready; read line");
    let output = world.session().options(["--disk", "200M"]).run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(host.disk)"), "{}", output.stderr);
    world.session().options(["--disk", "50M"]).run(["true"]).expect_code(0);
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}
