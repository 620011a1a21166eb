//! A service that was taken over and holds tickets and descriptors that are not meant for what it wants.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agentd_kernel::offer::{Answer, MAX_ANSWER, Mode as Granted, Role};
use agentd_kernel::packets::Packets;
use agentd_policy::plan::{Input, Mode, Plan, Workspace};
use agentd_policy::wire::Ticket;
use agentd_tests::harness::World;
use rustix::fs::{FileType, Mode as Bits, OFlags};

use crate::Member;
use crate::as_keeper::offer_from_another_process;
use crate::asking::{abs, as_user, grant, offer, open_dir, plan, plan_with, seqpacket, workspace};
use crate::place::{Launcher, Traces};
use crate::played::{Client, Played};

/// The tests of this file.
pub const TESTS: &[Member] = &[
    ("a_ticket_is_for_its_user_its_process_and_one_use", ownership),
    ("a_mode_above_the_grant_is_refused", above_the_grant),
    ("each_descriptor_is_used_once_and_must_be_there", indices),
    ("an_offer_with_another_number_of_descriptors_is_refused", counts),
    ("a_label_that_is_not_the_descriptors_name_is_refused", labels),
    ("a_directory_that_was_swapped_is_noticed", swapped),
    ("what_is_no_directory_is_no_workspace", kinds),
    ("what_was_not_opened_for_reading_proves_nothing", unreadable),
    ("another_mount_namespace_is_refused", foreign_mounts),
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
    fn refused(&self, role: Role, mode: Granted, fd: OwnedFd, wanted: Plan, rule: &str) {
        let held = offer(&self.launcher, self.world.a(), &[(grant(role, mode), fd)]);
        self.service.refused(self.client.number, Some(held.ticket), wanted, rule);
    }

    #[track_caller]
    fn workspace_refused(&self, fd: OwnedFd, path: &Path, rule: &str) {
        for mode in [Mode::Ro, Mode::Overlay, Mode::Direct] {
            let fd = fd.try_clone().expect("a descriptor");
            let wanted = plan_with(self.world.a(), vec![workspace(path, 0, mode)]);
            self.refused(Role::Workspace, Granted::Direct, fd, wanted, rule);
        }
    }

    fn end(self) {
        self.launcher.assert_clean(&self.before);
    }
}

fn ownership(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let other = stage.service.client(&stage.launcher, world.b());
    let before = stage.launcher.traces();
    let own = || vec![(grant(Role::Workspace, Granted::Direct), open_dir(user, &dir))];
    let wanted = || plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
    let held = offer(&stage.launcher, user, &own());
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
    let gone = offer(&stage.launcher, user, &own());
    let ticket = gone.ticket;
    drop(gone);
    refused(&stage.client, ticket, wanted());
    // Of another process of the same user.
    let foreign = offer_from_another_process(&stage.launcher, user, &dir);
    refused(&stage.client, foreign.ticket, wanted());
    drop((foreign, held));
    stage.launcher.assert_clean(&before);
}

fn above_the_grant(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = || open_dir(user, &dir);
    for (granted, wanted) in
        [(Granted::Ro, Mode::Overlay), (Granted::Ro, Mode::Direct), (Granted::Overlay, Mode::Direct)]
    {
        let wanted = plan_with(user, vec![workspace(&dir, 0, wanted)]);
        stage.refused(Role::Workspace, granted, fd(), wanted, "offer.mode");
    }
    let input = plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
    stage.refused(Role::Input, Granted::Direct, fd(), input, "offer.mode");
    let wanted = Plan { inputs: vec![Input { path: abs(&dir), descriptor: 0 }], ..plan(user) };
    stage.refused(Role::Workspace, Granted::Direct, fd(), wanted, "offer.mode");
    stage.end();
}

fn indices(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = || open_dir(user, &dir);
    let one = |descriptor| workspace(&dir, descriptor, Mode::Ro);
    for wrong in [1, 252, u16::MAX] {
        let wanted = plan_with(user, vec![one(wrong)]);
        stage.refused(Role::Workspace, Granted::Ro, fd(), wanted, "offer.missing");
    }
    let twice = plan_with(user, vec![one(0), one(0)]);
    stage.refused(Role::Workspace, Granted::Ro, fd(), twice, "offer.missing");
    let both =
        Plan { inputs: vec![Input { path: abs(&dir), descriptor: 0 }], ..plan_with(user, vec![one(0)]) };
    stage.refused(Role::Workspace, Granted::Ro, fd(), both, "offer.missing");
    // No ticket at all, or one for nothing.
    stage.service.refused(stage.client.number, None, plan_with(user, vec![one(0)]), "offer.missing");
    let nothing = offer(&stage.launcher, user, &[]);
    let wanted = plan_with(user, vec![one(0)]);
    stage.service.refused(stage.client.number, Some(nothing.ticket), wanted, "offer.missing");
    drop(nothing);
    stage.end();
}

/// The launcher itself looks at the words of an offer alone; the builder counts the descriptors.
fn counts(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let fd = open_dir(user, &dir);
    let path = stage.launcher.runtime().join("offer.sock");
    for (words, descriptors) in
        [(&b"AGD1\0\x02"[..], 0), (b"AGD1\0\x02", 2), (b"AGD1\0\x02\0\x02", 1), (b"AGD1", 1)]
    {
        let socket =
            as_user(user.uid, user.gid, &[stage.launcher.socket_gid], || seqpacket(&path)).expect("a member");
        let socket = Packets::from_fd(socket);
        socket.send(words, &vec![fd.as_fd(); descriptors]).expect("sent");
        let answer = socket.receive(MAX_ANSWER, 0).expect("an answer").expect("an answer");
        match Answer::parse(&answer.bytes).expect("an answer") {
            Answer::Ticket(ticket) => {
                let wanted = plan_with(user, vec![workspace(&dir, 0, Mode::Ro)]);
                stage.service.refused(stage.client.number, Some(Ticket(ticket)), wanted, "offer.form");
            }
            Answer::Refused(_, rule, _) => assert_eq!(rule, "offer.form"),
        }
    }
    stage.end();
}

fn labels(world: &'static World) {
    let stage = Stage::new(world);
    let (user, dir) = (world.a(), world.workspace(world.a()));
    user.make_dir(dir.join("below"));
    // Its parent, something below it, root's, and another user's, for a descriptor that is one's own.
    for label in [user.home.clone(), dir.join("below"), "/root".into(), world.b().home.clone()] {
        stage.workspace_refused(open_dir(user, &dir), &label, "offer.moved");
    }
    stage.end();
}

/// The name is judged on the descriptor, not looked up: whatever lies at the path now is of no account.
fn swapped(world: &'static World) {
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

fn kinds(world: &'static World) {
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
        let wanted = Plan { inputs: vec![Input { path: abs(path), descriptor: 0 }], ..plan(user) };
        stage.refused(Role::Input, Granted::Ro, fd, wanted, "path.kind");
    }
    stage.end();
}

fn unreadable(world: &'static World) {
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
    let wanted = Plan { inputs: vec![Input { path: abs(&file), descriptor: 0 }], ..plan(user) };
    stage.refused(Role::Input, Granted::Ro, write_only, wanted, "offer.unreadable");
    stage.end();
}

fn foreign_mounts(world: &'static World) {
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
    stage.refused(Role::Workspace, Granted::Direct, fd, plan_with(user, vec![nested]), "path.namespace");
    stage.end();
}
