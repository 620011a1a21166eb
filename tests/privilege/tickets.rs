//! A compromised service that holds tickets and descriptors that are not meant for what it wants.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use agentd_policy::mode::{Mode, Role};
use agentd_policy::mount::{Input, Workspace};
use agentd_policy::offer::ToClient;
use agentd_policy::plan::Plan;
use agentd_policy::wire::Ticket;
use agentd_tests::harness::{Mounted, World};
use agentd_tests::tests;
use rustix::fs::{FileType, Mode as Bits, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags};

use crate::Member;
use crate::as_keeper::offer_from_another_process;
use crate::asking::{
    abs, answer, as_user, grant, offer, open_dir, packet, plan, plan_with, side_socket, workspace,
};
use crate::place::{Launcher, Traces};
use crate::played::{Client, Played};

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    a_ticket_is_for_its_user_its_process_and_one_use,
    a_mode_above_the_grant_is_refused,
    each_descriptor_is_used_once_and_must_be_there,
    an_offer_with_another_number_of_descriptors_is_refused,
    a_label_that_is_not_the_descriptors_name_is_refused,
    a_directory_that_was_swapped_is_noticed,
    what_is_no_directory_is_no_workspace,
    what_was_not_opened_for_reading_proves_nothing,
    another_mount_namespace_is_refused,
    a_mount_that_names_itself_is_refused,
    a_directory_that_another_mount_covers_is_refused,
    a_mount_that_was_taken_away_is_refused,
    a_file_that_names_itself_is_refused,
];

struct Stage {
    launcher: Launcher,
    service: Played,
    client: Client,
    before: Traces,
    world: &'static World,
}

impl Stage {
    fn new(world: &'static World) -> Self {
        let launcher = Launcher::start(world, "");
        let service = Played::connect(&launcher);
        let client = service.client(&launcher, world.a());
        let before = launcher.traces();
        Self { launcher, service, client, before, world }
    }

    /// Offers one descriptor as user a and asks for a plan with it, which must be refused.
    #[track_caller]
    fn refused(&self, role: Role, mode: Mode, fd: OwnedFd, wanted: Plan, rule: &str) {
        let held = offer(&self.launcher, self.world.a(), &[(grant(role, mode), fd)], &wanted);
        self.service.refused(self.client.number, Some(held.ticket), wanted, rule);
    }

    #[track_caller]
    fn workspace_refused(&self, fd: OwnedFd, path: &Path, rule: &str) {
        for mode in [Mode::Ro, Mode::Overlay, Mode::Direct] {
            let fd = fd.try_clone().expect("a descriptor");
            let wanted = plan_with(self.world.a(), vec![workspace(path, 0, mode)]);
            self.refused(Role::Workspace, Mode::Direct, fd, wanted, rule);
        }
    }

    fn end(self) {
        self.launcher.assert_clean(&self.before);
    }
}

fn a_ticket_is_for_its_user_its_process_and_one_use(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let other = stage.service.client(&stage.launcher, world.b());
    let before = stage.launcher.traces();
    let own = || vec![(grant(Role::Workspace, Mode::Direct), open_dir(user, &dir))];
    let wanted = || plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
    let held = offer(&stage.launcher, user, &own(), &wanted());
    let refused = |client: &Client, ticket, plan| {
        stage.service.refused(client.number, Some(ticket), plan, "offer.ticket")
    };
    // Of another user, and of nobody.
    refused(&other, held.ticket, wanted());
    refused(&stage.client, Ticket([0; 32]), wanted());
    // Once, even if what it was used for came to nothing.
    let impossible = Plan { command: vec![], ..wanted() };
    stage.service.refused(stage.client.number, Some(held.ticket), impossible, "command.empty");
    refused(&stage.client, held.ticket, wanted());
    // Of a client that has gone.
    let gone = offer(&stage.launcher, user, &own(), &wanted());
    let ticket = gone.ticket;
    drop(gone);
    refused(&stage.client, ticket, wanted());
    // Of another process of the same user.
    let foreign = offer_from_another_process(&stage.launcher, user, &dir, &wanted());
    refused(&stage.client, foreign.ticket, wanted());
    drop((foreign, held));
    stage.launcher.assert_clean(&before);
}

fn a_mode_above_the_grant_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = || open_dir(user, &dir);
    for (granted, wanted) in
        [(Mode::Ro, Mode::Overlay), (Mode::Ro, Mode::Direct), (Mode::Overlay, Mode::Direct)]
    {
        let wanted = plan_with(user, vec![workspace(&dir, 0, wanted)]);
        stage.refused(Role::Workspace, granted, fd(), wanted, "offer.mode");
    }
    let input = plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
    stage.refused(Role::Input, Mode::Direct, fd(), input, "offer.mode");
    let wanted = Plan { inputs: vec![Input { path: abs(&dir), link: None, descriptor: 0 }], ..plan(user) };
    stage.refused(Role::Workspace, Mode::Direct, fd(), wanted, "offer.mode");
    stage.end();
}

fn each_descriptor_is_used_once_and_must_be_there(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = || open_dir(user, &dir);
    let one = |descriptor| workspace(&dir, descriptor, Mode::Ro);
    for wrong in [1, 252, u16::MAX] {
        let wanted = plan_with(user, vec![one(wrong)]);
        stage.refused(Role::Workspace, Mode::Ro, fd(), wanted, "offer.missing");
    }
    let below = dir.join("below");
    let twice = plan_with(user, vec![one(0), workspace(&below, 0, Mode::Ro)]);
    stage.refused(Role::Workspace, Mode::Ro, fd(), twice, "offer.missing");
    let both = Plan {
        inputs: vec![Input { path: abs(&below), link: None, descriptor: 0 }],
        ..plan_with(user, vec![one(0)])
    };
    stage.refused(Role::Workspace, Mode::Ro, fd(), both, "offer.missing");
    // No ticket at all, or one for nothing.
    stage.service.refused(stage.client.number, None, plan_with(user, vec![one(0)]), "offer.missing");
    let wanted = plan_with(user, vec![one(0)]);
    let nothing = offer(&stage.launcher, user, &[], &wanted);
    stage.service.refused(stage.client.number, Some(nothing.ticket), wanted, "offer.missing");
    drop(nothing);
    stage.end();
}

/// The launcher itself looks at the words of an offer alone; the builder counts the descriptors.
fn an_offer_with_another_number_of_descriptors_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = open_dir(user, &dir);
    let path = stage.launcher.runtime().join("offer.sock");
    let wanted = || plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
    for (grants, descriptors) in [(1, 0), (1, 2), (2, 1), (0, 1)] {
        let socket = as_user(user.uid, user.gid, &[stage.launcher.socket_gid], || side_socket(&path));
        let words = packet(vec![grant(Role::Workspace, Mode::Direct); grants], &wanted());
        socket.send(&words, &vec![fd.as_fd(); descriptors]).expect("sent");
        match answer(&socket) {
            ToClient::Held(ticket) => {
                stage.service.refused(stage.client.number, Some(ticket), wanted(), "offer.form");
            }
            other => panic!("{other:?}"),
        }
    }
    stage.end();
}

fn a_label_that_is_not_the_descriptors_name_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    user.make_dir(dir.join("below"));
    // Its parent, something below it, root's, and another user's, for a descriptor that is one's own.
    for label in [dir.join("below"), "/root".into(), world.b().home.clone()] {
        stage.workspace_refused(open_dir(user, &dir), &label, "offer.moved");
    }
    stage.workspace_refused(open_dir(user, &user.home), &user.home, "workspace.home");
    stage.end();
}

/// The name is judged on the descriptor, not looked up: whatever lies at the path now is of no account.
fn a_directory_that_was_swapped_is_noticed(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let (real, away) = (dir.join("project"), dir.join("away"));
    user.make_dir(&real);
    let fd = open_dir(user, &real);
    std::fs::rename(&real, &away).expect("the user's own");
    std::os::unix::fs::symlink("/etc", &real).expect("a new link");
    stage.workspace_refused(fd.try_clone().expect("a descriptor"), &real, "offer.moved");
    // Through the link itself: what it leads to is the system's.
    stage.workspace_refused(open_dir(user, &real), &real, "offer.moved");
    std::fs::remove_dir(&away).expect("empty");
    stage.workspace_refused(fd, &away, "offer.moved");
    stage.end();
}

fn what_is_no_directory_is_no_workspace(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let file = dir.join("file");
    user.write(&file, "x");
    let fifo = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Bits::from_raw_mode(0o600), 0)
        .expect("a new FIFO");
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Bits::empty()).expect("something to open")
    };
    let socket = OwnedFd::from(std::os::unix::net::UnixStream::pair().expect("a pair").0);
    for (fd, path) in
        [(open(&file), file.as_path()), (open(&fifo), fifo.as_path()), (open("/dev/zero".as_ref()), &dir)]
    {
        stage.workspace_refused(fd, path, "path.kind");
    }
    stage.workspace_refused(socket, &dir, "path.kind");
    // As an input, a FIFO and a device are no better.
    for (fd, path) in [(open(&fifo), fifo.as_path()), (open("/dev/zero".as_ref()), &dir)] {
        let wanted =
            Plan { inputs: vec![Input { path: abs(path), link: None, descriptor: 0 }], ..plan(user) };
        stage.refused(Role::Input, Mode::Ro, fd, wanted, "path.kind");
    }
    stage.end();
}

fn what_was_not_opened_for_reading_proves_nothing(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    // A name alone can be had of any directory: of root's own, too.
    for path in [dir.as_path(), "/root".as_ref()] {
        let name = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Bits::empty()).expect("a name");
        stage.workspace_refused(name, path, "offer.unreadable");
    }
    let file = dir.join("file");
    user.write(&file, "x");
    let write_only = rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Bits::empty()).expect("ours");
    let wanted = Plan { inputs: vec![Input { path: abs(&file), link: None, descriptor: 0 }], ..plan(user) };
    stage.refused(Role::Input, Mode::Ro, write_only, wanted, "offer.unreadable");
    stage.end();
}

fn another_mount_namespace_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    // A thread may have a mount namespace of its own; it ends with it.
    let fd: OwnedFd = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
            std::fs::File::open(&dir).expect("the same directory").into()
        });
        thread.join().expect("a thread")
    });
    assert!(rustix::fs::fstat(fd.as_fd()).is_ok());
    let nested = Workspace { mask: vec![], ..workspace(&dir, 0, Mode::Ro) };
    stage.refused(Role::Workspace, Mode::Direct, fd, plan_with(user, vec![nested]), "path.namespace");
    stage.end();
}

/// A file system of the client's own, attached nowhere, in which it makes the path that it wants reported: its
/// descriptor's name is that path. Linux 6.15 and later copy such a mount for any process with a descriptor of it.
struct OwnFileSystem {
    dir: OwnedFd,
    /// It is there as long as this.
    _mount: OwnedFd,
}

impl OwnFileSystem {
    fn new(path: &Path) -> Self {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
        rustix::mount::fsconfig_create(context.as_fd()).expect("fsconfig");
        let attributes = MountAttrFlags::empty();
        let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        let mount = mount.expect("fsmount");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&mount, ".", flags, Bits::empty()).expect("ours");
        let dir = path.components().skip(1).fold(top, |at, name| {
            rustix::fs::mkdirat(&at, name.as_os_str(), Bits::from_raw_mode(0o755)).expect("a new directory");
            rustix::fs::openat(&at, name.as_os_str(), flags, Bits::empty()).expect("ours")
        });
        Self { dir, _mount: mount }
    }
}

/// What the kernel says that a descriptor is named.
fn name_of(fd: &OwnedFd) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("our own descriptor")
}

fn a_mount_that_names_itself_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let dir = world.workspace(world.a());
    // The victim's own path, one of another user's, and one that nobody has.
    for path in [dir.clone(), world.b().home.clone(), dir.join("nowhere")] {
        let own = OwnFileSystem::new(&path);
        assert_eq!(name_of(&own.dir), path, "its name is its maker's choice");
        stage.workspace_refused(own.dir.try_clone().expect("a descriptor"), &path, "path.namespace");
    }
    stage.end();
}

fn a_file_that_names_itself_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let dir = world.workspace(world.a());
    let file = dir.join("file");
    world.a().write(&file, "the real one");
    let own = OwnFileSystem::new(&dir);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&own.dir, "file", flags, Bits::from_raw_mode(0o644)).expect("a new file");
    assert_eq!(name_of(&fd), file);
    let wanted =
        Plan { inputs: vec![Input { path: abs(&file), link: None, descriptor: 0 }], ..plan(world.a()) };
    stage.refused(Role::Input, Mode::Ro, fd, wanted, "path.namespace");
    // One that was replaced has the name of the new one.
    let old: OwnedFd = std::fs::File::open(&file).expect("the user's own").into();
    world.a().write(dir.join("new"), "another one");
    std::fs::rename(dir.join("new"), &file).expect("the user's own");
    std::fs::hard_link(&file, dir.join("file (deleted)")).expect("a second name");
    let label = dir.join("file (deleted)");
    assert_eq!(name_of(&old), label);
    let wanted =
        Plan { inputs: vec![Input { path: abs(&label), link: None, descriptor: 0 }], ..plan(world.a()) };
    stage.refused(Role::Input, Mode::Ro, old, wanted, "offer.moved");
    stage.end();
}

/// The name leads to what was mounted there since, and the descriptor to what that hides.
fn a_directory_that_another_mount_covers_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let real = dir.join("project");
    user.write(real.join("hidden"), "what the administrator covered");
    let (fd, file) = (open_dir(user, &real), std::fs::File::open(real.join("hidden")).expect("ours"));
    let cover = Mounted::tmpfs(&real, MountFlags::empty());
    assert_eq!(name_of(&fd), real);
    stage.workspace_refused(fd, &real, "offer.moved");
    let path = real.join("hidden");
    let wanted = Plan { inputs: vec![Input { path: abs(&path), link: None, descriptor: 0 }], ..plan(user) };
    stage.refused(Role::Input, Mode::Ro, file.into(), wanted, "offer.moved");
    drop(cover);
    stage.end();
}

fn a_mount_that_was_taken_away_is_refused(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let real = dir.join("project");
    user.make_dir(&real);
    let cover = Mounted::tmpfs(&real, MountFlags::empty());
    user.make_dir(real.join("below"));
    let (top, below) = (open_dir(user, &real), open_dir(user, &real.join("below")));
    drop(cover);
    // Both have names that are not theirs any more: `/` and `/below`.
    for fd in [top, below] {
        let named = name_of(&fd);
        let rule = if named == Path::new("/") { "plan.reserved" } else { "path.namespace" };
        stage.workspace_refused(fd, &named, rule);
    }
    stage.end();
}
