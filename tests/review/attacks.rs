//! What others, and the session's own user, try with a review.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use agentd_kernel::mount::{Attributes, Tree};
use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::offer::{FromClient, ToClient};
use agentd_policy::rule::Rule;
use agentd_tests::harness::{
    Session, Snapshot, User, World, as_user, complete, not_tried, wait_for_exit, within,
};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, FdFlags};

use crate::Member;
use crate::asking::{Views, ask, directory, discard, id, names, read, receive, send, views};

pub const TESTS: &[Member] = &[
    ("others_learn_nothing", others_learn_nothing),
    ("nothing_can_be_written", nothing_can_be_written),
    ("a_view_cannot_be_changed_in_a_namespace_of_its_users", a_view_cannot_be_changed),
    ("what_the_user_cannot_read_is_not_readable", what_the_user_cannot_read_is_not_readable),
    ("another_directory_is_refused", another_directory_is_refused),
    ("who_stops_leaves_nothing", who_stops_leaves_nothing),
    ("who_is_idle_holds_up_nobody_else", who_is_idle_holds_up_nobody_else),
];

const LIMIT: Duration = Duration::from_secs(30);

/// A session of user a that has ended, with a file in its overlay.
fn ended(world: &World) -> (SessionId, PathBuf) {
    let workspace = world.workspace(world.a());
    let session = world.session_in(&workspace);
    let mut child = session.spawn(["bash", "-c", "echo work > result; mkdir dir; echo in > dir/file"]);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(0));
    (id(world, world.a(), &session), workspace)
}

/// Runs a script of python's as `user`, who has these descriptors under the names a, b, ...; what it prints.
fn python(user: &User, descriptors: &[&OwnedFd], script: &str) -> String {
    let mut prelude = String::from("import ctypes, errno, fcntl, os, sys\n");
    for (name, fd) in ('a'..).zip(descriptors) {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).expect("a flag");
        prelude += &format!("{name} = {}\n", fd.as_raw_fd());
    }
    let mut command = user.command("/usr/bin/python3");
    command.args(["-c", &format!("{prelude}{script}")]).stdin(Stdio::null());
    let output = complete(&mut command, vec![], "python".into()).expect_code(0);
    output.text()
}

/// Who could distinguish another's session from one that is not there would learn when others work, and by a view
/// what on. An admin sees that sessions are, and root may do all by itself, but neither is given what is in them.
fn others_learn_nothing(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo work > result; echo ready; read line");
    let running = id(world, world.a(), &session);
    let (ended, _) = ended(world);
    let said = |user: &User, id: &SessionId| {
        let review = ask(world, user, id).map(drop).expect_err("it is refused");
        let discarded = discard(world, user, id).expect_err("it is refused");
        assert_eq!(review, discarded);
        let Refusal { what, rule, hint } = review;
        (what.replace(id.as_str(), "ID"), rule, hint)
    };
    let nobodys = SessionId::from_random([0x5a; 6]);
    let unknown = said(world.a(), &nobodys);
    assert_eq!(unknown.1, Rule::SessionUnknown);
    for user in [world.b(), world.admin(), &User::root()] {
        for id in [&running, &ended] {
            assert_eq!(said(user, id), unknown, "{}", user.name);
        }
    }
    drop(child.stdin.take());
    wait_for_exit(&mut child, LIMIT).expect("it ends");
}

/// Files in an upper directory are the user's own on disk. Who could write there would change what was reviewed, fill
/// the disk past the session's limit, or leave its project; above it lie other sessions and root's own files.
fn nothing_can_be_written(world: &World) {
    let (id, _) = ended(world);
    let user = world.a();
    let Views { upper, merged } = views(world, user, &id);
    for view in [&upper, &merged] {
        let tried = as_user(user.uid, user.gid, &user.groups(), || {
            let open = |name, flags| rustix::fs::openat(view, name, flags, Mode::RUSR).map(drop);
            let mode = Mode::RWXU;
            [
                open("result", OFlags::WRONLY),
                open("new", OFlags::WRONLY | OFlags::CREATE),
                open(".", OFlags::WRONLY | OFlags::TMPFILE),
                rustix::fs::mkdirat(view, "new", mode),
                rustix::fs::unlinkat(view, "result", AtFlags::empty()),
                rustix::fs::renameat(view, "result", view, "new"),
                rustix::fs::chmodat(view, "result", mode, AtFlags::empty()),
            ]
        });
        assert_eq!(tried, [Err(Errno::ROFS); 7]);
        let above = as_user(user.uid, user.gid, &user.groups(), || {
            let inode = |path| rustix::fs::statat(view, path, AtFlags::empty()).map(|stat| stat.st_ino);
            [inode("."), inode(".."), inode("../../..")]
        });
        assert_eq!(above, [above[0]; 3]);
        assert_eq!(read(user, view, "../about"), Err(Errno::NOENT));
        assert_eq!(names(user, view, "..").expect("itself"), [".env", "dir", "result"]);
        let flags = rustix::fs::fstatvfs(view).expect("statvfs").f_flag;
        for flag in ["RDONLY", "NOSUID", "NODEV", "NOEXEC"] {
            let flag = rustix::fs::StatVfsMountFlags::from_name(flag).expect("a flag");
            assert!(flags.contains(flag), "{flags:?}");
        }
    }
    // FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR, of a file and a directory.
    let script = "
for view in (a, b):
    for name in ('result', 'dir'):
        fd = os.open(name, os.O_RDONLY, dir_fd=view)
        for request, size in ((0x40086602, 8), (0x401c5820, 28)):
            try: fcntl.ioctl(fd, request, bytes(size)); print('DONE')
            except OSError as e: print(errno.errorcode[e.errno])
";
    let said = python(user, &[&upper, &merged], script);
    assert!(said.lines().take(4).all(|line| line == "EROFS"), "{said}");
    assert!(said.lines().count() == 8 && !said.contains("DONE"), "{said}");
}

/// Mounts that are attached nowhere can be changed by a user with a user namespace: made writable, the upper directory
/// would be the user's to write, and with a descriptor that a process outside keeps, its project to leave.
fn a_view_cannot_be_changed(world: &World) {
    let (id, workspace) = ended(world);
    let user = world.a();
    let Views { upper, merged } = views(world, user, &id);
    // What the same does to one that was only made read-only.
    let loose = Tree::copy_of_one(directory(user, &workspace).as_fd()).expect("a copy");
    let read_only = Attributes { read_only: true, ..Attributes::default() };
    loose.restrict(read_only, None).expect("attributes");
    let loose = OwnedFd::from(loose);
    let script = "
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    return 'DONE' if libc.syscall(*words) >= 0 else errno.errorcode[ctypes.get_errno()]
if libc.unshare(0x10000000 | 0x20000) != 0: print('NONE'); sys.exit()
attr = (ctypes.c_uint64 * 4)(0, 1 | 2 | 4, 0, 0)
for view in (a, b, c):
    print(call(442, view, b'', 0x1000, ctypes.byref(attr), 32), end=' ')
    print(call(428, view, b'', 0x1000 | 1), end=' ')
    print(call(429, view, b'', -100, b'/tmp', 4), end=' ')
    try: os.close(os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=view)); print('DONE')
    except OSError as e: print(errno.errorcode[e.errno])
";
    let said = python(user, &[&upper, &merged, &loose], script);
    let lines: Vec<&str> = said.lines().collect();
    if lines == ["NONE"] {
        not_tried("users have no user namespaces here");
    }
    assert_eq!(lines[..2], ["EINVAL EINVAL EINVAL EROFS"; 2], "{said}");
    assert!(lines[2].starts_with("DONE ") && lines[2].ends_with(" DONE"), "it was tried rightly: {said}");
}

/// The view is mounted by a process of root's. What it could read for its user would be every file of others in the
/// workspace.
fn what_the_user_cannot_read_is_not_readable(world: &World) {
    let workspace = world.workspace(world.a());
    for name in ["secret", "closed/inner"] {
        let path = workspace.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("root may");
        std::fs::write(&path, "root's").expect("root may");
    }
    let set = |name, mode| {
        let path = workspace.join(name);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("root may");
    };
    set("secret", 0o600);
    set("closed", 0o700);
    let session = world.session_in(&workspace);
    let mut child = session.spawn(["bash", "-c", "echo work > result"]);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(0));
    let views = views(world, world.a(), &id(world, world.a(), &session));
    assert_eq!(read(world.a(), &views.merged, "result").as_deref(), Ok("work\n"));
    for name in ["secret", "closed/inner"] {
        assert_eq!(read(world.a(), &views.merged, name), Err(Errno::ACCESS), "{name}");
    }
    assert_eq!(names(world.a(), &views.merged, "closed"), Err(Errno::ACCESS));
}

/// A view over another directory would show what the session did not see; over one that the user cannot open, or by a
/// mount of its own, more than it can see.
fn another_directory_is_refused(world: &World) {
    let (id, workspace) = ended(world);
    let user = world.a();
    user.make_dir(workspace.join("sub"));
    user.write(workspace.join("file"), "x");
    let other = world.workspace(user);
    let offered = |descriptors: &[OwnedFd]| {
        let named = ask(world, user, &id).expect("a review");
        named.offer(descriptors).map(drop).map_err(|refusal| refusal.rule)
    };
    let file = OwnedFd::from(std::fs::File::open(workspace.join("file")).expect("a file"));
    let moved = [
        directory(user, &other),
        directory(user, &workspace.join("sub")),
        directory(user, "/".as_ref()),
        file,
    ];
    for fd in moved {
        assert_eq!(offered(&[fd]), Err(Rule::ReviewMoved));
    }
    // The same directory, by a mount that only its user sees.
    let tree = Tree::copy_of_one(directory(user, &workspace).as_fd()).expect("a copy");
    let refused = offered(&[tree.into()]).expect_err("it is refused");
    assert!(matches!(refused, Rule::ReviewMoved | Rule::PathNamespace), "{refused}");
    let right = || directory(user, &workspace);
    assert_eq!(offered(&[]), Err(Rule::ReviewFailed));
    assert_eq!(offered(&[right(), right()]), Err(Rule::ReviewFailed));
    assert_eq!(offered(&[right()]), Ok(()));
    // Another one has its place.
    let aside = workspace.with_extension("aside");
    std::fs::rename(&workspace, &aside).expect("root may");
    user.make_dir(&workspace);
    assert_eq!(offered(&[right()]), Err(Rule::ReviewMoved));
    assert_eq!(offered(&[directory(user, &aside)]), Err(Rule::ReviewMoved));
    std::fs::remove_dir(&workspace).expect("it is empty");
    std::fs::rename(&aside, &workspace).expect("root may");
    assert_eq!(offered(&[right()]), Ok(()));
}

/// Mounts, devices and processes of root's that stay would be any user's way to use the host up.
fn who_stops_leaves_nothing(world: &World) {
    let (id, workspace) = ended(world);
    let user = world.a();
    let before = Snapshot::settled(world.daemon());
    for _ in 0..8 {
        drop(send(world, user, &FromClient::Review(id.clone())));
        let asked = within(LIMIT, || ask(world, user, &id));
        drop(asked.expect("a review"));
        let named = within(LIMIT, || ask(world, user, &id)).expect("a review");
        let opened = agentd_policy::review::Opened { workspaces: 1 };
        let packet = agentd_policy::wire::encode(&opened).expect("a message");
        let top = directory(user, &workspace);
        named.socket.send(&packet, &[top.as_fd()]).expect("it is taken");
        drop(named);
        let named = within(LIMIT, || ask(world, user, &id)).expect("a review");
        named.socket.send(b"nonsense", &[top.as_fd()]).expect("it is taken");
        let refused = receive(&named.socket).0;
        assert!(
            matches!(refused, ToClient::Refused(Refusal { rule: Rule::ReviewFailed, .. })),
            "{refused:?}"
        );
    }
    before.assert_same_within(world.daemon(), LIMIT);
}

/// Else one user could keep others from reviewing, or hold as many processes of root's as it likes.
fn who_is_idle_holds_up_nobody_else(world: &World) {
    let (id, _) = ended(world);
    let other = Session::new(world, world.b(), world.workspace(world.b()));
    let mut child = other.spawn(["bash", "-c", "echo work > result"]);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(0));
    let others = self::id(world, world.b(), &other);
    let before = Snapshot::settled(world.daemon());
    let mut idle: Vec<_> = (0..4).map(|_| ask(world, world.a(), &id).expect("a review")).collect();
    assert_eq!(ask(world, world.a(), &id).map(drop).map_err(|refusal| refusal.rule), Err(Rule::HostBusy));
    drop(views(world, world.b(), &others));
    // They are given up.
    let given_up = idle.pop().expect("one").socket;
    assert!(given_up.receive(1024, 0).expect("an end").is_none());
    before.assert_same_within(world.daemon(), LIMIT);
    drop(idle);
    drop(views(world, world.a(), &id));
}
