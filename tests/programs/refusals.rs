//! What stays different inside: the errors that programs get, and that each is on record where it was a system call.

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

use super::has;

pub const TESTS: &[Named] = tests![
    sandboxes_and_namespaces,
    mounts_and_fuse,
    docker_is_not_there,
    sockets_of_the_kernel,
    what_is_missing_below_usr_is_read_only,
    schedules,
];

/// Runs `script`, and which calls were refused, each with its argument.
fn refused(world: &World, script: &str) -> (String, Vec<(String, String)>) {
    let output = world.session().bash(script).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let calls = events.iter().filter(|event| event["kind"] == "confine.denied");
    let calls =
        calls.map(|event| (text_at(event, "/confine/call"), text_at(event, "/confine/argument"))).collect();
    (output.text(), calls)
}

fn named(calls: &[(String, String)], call: &str) -> bool {
    calls.iter().any(|(name, _)| name == call)
}

fn sandboxes_and_namespaces(world: &World) {
    let (said, calls) = refused(world, "unshare -Ur true 2>&1; unshare -n true 2>&1; true");
    assert_eq!(said.matches("Operation not permitted").count(), 2, "{said}");
    assert!(named(&calls, "unshare"), "{calls:?}");
    if has(&["bwrap"]) {
        let (said, calls) = refused(world, "bwrap --ro-bind / / true 2>&1 || echo $?");
        assert!(said.contains("No permissions to create new namespace") && said.ends_with("1\n"), "{said}");
        assert!(named(&calls, "clone"), "{calls:?}");
    }
}

fn mounts_and_fuse(world: &World) {
    let (said, _) = refused(world, "mount -t tmpfs x /mnt 2>&1; mkdir m; ls /dev/fuse 2>&1; true");
    assert!(said.contains("cannot access '/dev/fuse': No such file or directory"), "{said}");
    // mount(8) of an ordinary user gives up by itself.
    assert!(said.contains("mount: "), "{said}");
}

/// The sockets of docker and containerd are not there.
fn docker_is_not_there(world: &World) {
    let script = "ls /var/run/docker.sock /run/containerd 2>&1; true";
    let (said, _) = refused(world, script);
    assert_eq!(said.matches("No such file or directory").count(), 2, "{said}");
}

/// `ss` reads /proc instead, as on a kernel without `sock_diag`.
fn sockets_of_the_kernel(world: &World) {
    if has(&["ss", "python3"]) {
        let script = "python3 -c 'import socket, subprocess; s = socket.create_server((\"127.0.0.1\", 0)); port = s.getsockname()[1]
print(str(port) in subprocess.run([\"ss\", \"-ltn\"], capture_output=True, text=True).stdout)'";
        let (said, calls) = refused(world, script);
        assert_eq!(said, "True\n");
        assert!(named(&calls, "socket"), "{calls:?}");
    }
    if has(&["python3"]) {
        let script = "import socket
for kind, protocol in ((socket.SOCK_DGRAM, 136), (socket.SOCK_STREAM, 262)):
    try: socket.socket(socket.AF_INET, kind, protocol)
    except OSError as e: print(e.strerror)";
        let (said, calls) = refused(world, &format!("python3 -c '{script}'"));
        assert_eq!(said, "Protocol not supported\nProtocol not supported\n");
        assert!(named(&calls, "socket"), "{calls:?}");
    }
}

/// The kernel says so of a read-only mount before it looks whether there is such a name.
fn what_is_missing_below_usr_is_read_only(world: &World) {
    let (said, _) = refused(world, "rm /usr/lib/missing 2>&1; rm -f /usr/lib/missing; echo $?");
    assert!(said.ends_with("0\n"), "{said}");
    if has(&["python3"]) {
        let script = "import errno, os\nfor name in (\"/usr/lib/missing\", \"/etc/missing\"):\n    try: os.unlink(name)\n    except OSError as e: print(errno.errorcode[e.errno])";
        let (said, _) = refused(world, &format!("python3 -c '{script}'"));
        assert_eq!(said, "EROFS\nEROFS\n");
    }
}

/// What others would run later, with the user's rights and without a session.
fn schedules(world: &World) {
    if has(&["crontab"]) {
        let (said, _) = refused(world, "echo '* * * * * true' | crontab - 2>&1 || echo refused");
        assert!(said.ends_with("refused\n"), "{said}");
    }
    if has(&["systemctl"]) {
        let (said, _) = refused(
            world,
            "systemctl --user list-timers 2>&1 || echo refused; systemctl status 2>&1 || echo refused",
        );
        assert_eq!(said.matches("refused\n").count(), 2, "{said}");
    }
}
