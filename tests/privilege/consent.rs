//! A compromised service beside a real launcher, and the real agentctl of a user: what the service can learn, and what
//! becomes of a session that is not the one that was asked for.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use agentd_kernel::account::Account;
use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::decide::decide;
use agentd_policy::egress::Egress;
use agentd_policy::mode::Mode;
use agentd_policy::mount::Input;
use agentd_policy::network::Upstream;
use agentd_policy::plan::{Plan, WindowSize};
use agentd_policy::request::CallerFacts;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{CallerNumber, FromService, Ticket};
use agentd_proto::v1::CreateRequest;
use agentd_tests::harness::{User, World};
use agentd_tests::tests;
use prost::Message as _;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::Member;
use crate::asking::{abs, as_user, session};
use crate::place::Launcher;
use crate::played::Played;
use crate::rogue::{self, Answer};

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    a_session_that_was_not_asked_for_is_refused_and_the_daemon_named,
    of_the_environment_only_what_the_profile_lets_in_leaves_the_client,
    a_dry_run_asks_the_service_nothing,
    a_launcher_that_is_not_roots_gets_no_descriptor,
    roots_files_are_opened_for_nobody,
];

/// What the caller's environment holds that nobody else is to learn.
const CANARY: &str = "canary-4711-of-the-caller";

/// agentctl of `user` at the sockets of `launcher`, with `args`.
fn agentctl(world: &World, user: Option<&User>, runtime: &Path, cwd: &Path, args: &[&str]) -> Command {
    let program = world.daemon().agentctl();
    let mut command = match user {
        Some(user) => user.command(program),
        None => Command::new(program),
    };
    command
        .arg("--socket")
        .arg(runtime.join("agentd.sock"))
        .args(args)
        .env("GITHUB_TOKEN", CANARY)
        .env("LANG", "C.UTF-8")
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("our own child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The plan that an honest service would make of a request of `user`.
fn honest(user: &User, request: &CreateRequest) -> Plan {
    let spec = request.spec.clone().expect("a spec");
    let Account { user: name, home, shell } = Account::of(user.uid).expect("an account");
    let caller = CallerFacts { uid: user.uid, user: name, home, shell, allow_root: false };
    let profile = agentd_request::profile(&spec).expect("a profile");
    let mut wanted = agentd_request::parse(spec, session()).expect("a request");
    wanted.offered = Some(agentd_request::offered(&request.paths).expect("paths"));
    let (bounds, upstream) = (Bounds::default(), Upstream::default());
    decide(&wanted, &profile, &bounds, &upstream, &caller).expect("an honest request").into_plan().into()
}

/// A stage for one request: the launcher, its service, and a user with a workspace.
struct Stage {
    world: &'static World,
    launcher: Launcher,
    service: Played,
}

impl Stage {
    fn new(world: &'static World) -> Self {
        let launcher = Launcher::start(world, "");
        let service = Played::connect(&launcher);
        Self { world, launcher, service }
    }

    /// Runs `agentctl run ARGS` to its end. The service sees the request, and builds what `change` makes of the plan.
    fn run(&self, args: &[&str], change: impl FnOnce(&mut Plan)) -> (CreateRequest, (Option<i32>, String)) {
        let user = self.world.a();
        let dir = self.world.workspace(user);
        let args = [&["run"], args, &["--", "true"]].concat();
        let mut command = agentctl(self.world, Some(user), &self.launcher.runtime(), &dir, &args);
        let child = command.spawn().expect("agentctl");
        let (number, _, served) = self.service.next_caller();
        let (asked, requests) = mpsc::channel();
        let (over, ended) = tokio::sync::oneshot::channel();
        let serving = std::thread::spawn(move || rogue::serve(served, asked, ended));
        let Answer { request, answer } = requests.recv().expect("a request");
        let mut plan = honest(user, &request);
        change(&mut plan);
        let id = plan.session.clone();
        let ticket = Ticket(request.ticket.as_ref().try_into().expect("32 bytes"));
        let refusal = match self.service.build(number, Some(ticket), plan) {
            Err(refusal) => refusal,
            Ok(built) => {
                drop(built);
                self.service.end(&id);
                assert_eq!(self.service.remove(number, user.uid, &id), None, "its overlay goes");
                Refusal::new("a session", Rule::AttachGone, "it was built")
            }
        };
        answer.send(refusal).expect("the client waits");
        let said = said(child);
        self.service.send(&FromService::Forget { caller: number });
        over.send(()).expect("it serves");
        serving.join().expect("it serves");
        (request, said)
    }
}

/// Whoever has the service's account would have the user's keys, or a `direct` session on the user's directory, without
/// the user's word.
fn a_session_that_was_not_asked_for_is_refused_and_the_daemon_named(world: &'static World) {
    let stage = Stage::new(world);
    let before = stage.launcher.traces();
    let secret = world.a().home.join(".ssh/id_test");
    type Change<'a> = &'a dyn Fn(&mut Plan);
    let changes: &[(&str, Change<'_>)] = &[
        ("consent.files", &|p| p.inputs = vec![Input { path: abs(&secret), link: None, descriptor: 1 }]),
        ("consent.files", &|p| p.workspaces[0].path = abs("/srv/elsewhere")),
        ("consent.files", &|p| p.workspaces[0].mode = Mode::Direct),
        ("consent.files", &|p| p.workspaces[0].mode = Mode::Ro),
        ("consent.files", &|p| p.workspaces[0].mask.clear()),
        ("consent.files", &|p| p.workspaces[0].protect.clear()),
        ("consent.files", &|p| p.remove = true),
        ("consent.command", &|p| p.command = vec![b"sh".to_vec()]),
        ("consent.command", &|p| p.terminal = Some(WindowSize { rows: 24, cols: 80 })),
        ("consent.environment", &|p| p.env.push((b"LD_PRELOAD".to_vec(), b"/tmp/x.so".to_vec()))),
        ("consent.network", &|p| p.egress = Some(Egress::default())),
        ("consent.limits", &|p| p.limits.timeout_ms += 1),
    ];
    for (rule, change) in changes {
        let (_, (code, stderr)) = stage.run(&[], change);
        assert_eq!(code, Some(125), "{rule}: {stderr}");
        let line = format!("({rule}): ");
        assert!(
            stderr.starts_with("agentctl: refused: the daemon asked for ") && stderr.contains(&line),
            "{stderr}"
        );
        assert!(stderr.contains("agentctl ") && stderr.contains("agentd "), "no versions: {stderr}");
    }
    // Nothing else was wrong with it: what was asked for is built. No launcher refuses by this rule.
    let (_, (_, stderr)) = stage.run(&[], |_| {});
    assert!(stderr.contains("(attach.gone): it was built"), "{stderr}");
    stage.launcher.assert_clean(&before);
}

/// A token in the caller's shell would be in the hands of the service.
fn of_the_environment_only_what_the_profile_lets_in_leaves_the_client(world: &'static World) {
    let stage = Stage::new(world);
    let (request, _) = stage.run(&[], |_| {});
    let bytes = request.encode_to_vec();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("LANG") && holds("C.UTF-8"), "what the profile lets in comes along");
    for text in ["GITHUB_TOKEN", CANARY, "LS_COLORS", "MAIL"] {
        assert!(!holds(text), "{text} left the client");
    }
    // What is named by hand comes along.
    let (request, _) = stage.run(&["--env", "GITHUB_TOKEN"], |_| {});
    let bytes = request.encode_to_vec();
    assert!(bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
}

fn a_dry_run_asks_the_service_nothing(world: &'static World) {
    let stage = Stage::new(world);
    let dir = world.workspace(world.a());
    let args = ["run", "--dry-run", "--json", "--", "true"];
    let output =
        agentctl(world, Some(world.a()), &stage.launcher.runtime(), &dir, &args).output().expect("agentctl");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(CANARY));
    // The service would receive a caller before this.
    let nobody = stage.service.remove(CallerNumber(0), 0, &session());
    assert_eq!(nobody.expect("nobody asks").rule.name(), "caller.unknown");
}

/// A process with the service's uid, and sockets of its own, got every descriptor that it asked for.
fn a_launcher_that_is_not_roots_gets_no_descriptor(world: &'static World) {
    let service = Launcher::start(world, "").service_uid;
    let dir = world.workspace(world.b()).join("run");
    std::fs::create_dir(&dir).expect("a new directory");
    std::os::unix::fs::chown(&dir, Some(service), None).expect("root may");
    for parent in [world.b().home.as_path(), dir.parent().expect("a workspace"), &dir] {
        rustix::fs::chmod(parent, rustix::fs::Mode::from_raw_mode(0o755)).expect("root may");
    }
    let (grpc, side) = as_user(service, service, &[], || {
        let grpc = UnixListener::bind(dir.join("agentd.sock")).expect("its own directory");
        let side =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket");
        rustix::net::bind(&side, &SocketAddrUnix::new(dir.join("offer.sock")).expect("short"))
            .expect("its own");
        rustix::net::listen(&side, 4).expect("a socket");
        (grpc, side)
    });
    for name in ["agentd.sock", "offer.sock"] {
        rustix::fs::chmod(dir.join(name), rustix::fs::Mode::from_raw_mode(0o666)).expect("root may");
    }
    let own = world.workspace(world.a());
    let child =
        agentctl(world, Some(world.a()), &dir, &own, &["run", "--", "true"]).spawn().expect("agentctl");
    let (code, stderr) = said(child);
    assert_eq!(code, Some(125), "{stderr}");
    assert!(stderr.contains("(launcher.peer)") && stderr.contains(&format!("uid {service}")), "{stderr}");
    nothing_came(&side);
    drop(grpc);
}

/// Of a client that hung up there is nothing to read: neither a byte nor a descriptor.
fn nothing_came(listener: &OwnedFd) {
    let client = rustix::net::accept(listener).expect("it connected");
    let packets = agentd_kernel::packets::Packets::from_fd(client);
    let packet = packets.receive(4096, 253).expect("its end");
    assert!(packet.is_none(), "{packet:?}");
}

/// Root's agentctl opened `/etc/shadow` for any caller.
fn roots_files_are_opened_for_nobody(world: &'static World) {
    let stage = Stage::new(world);
    let before = stage.launcher.traces();
    for args in [
        &["run", "--", "true"][..],
        &["run", "--dry-run", "--", "true"],
        &["run", "--workspace", "/root:ro", "--", "true"],
    ] {
        let mut command = agentctl(world, None, &stage.launcher.runtime(), Path::new("/root"), args);
        let (code, stderr) = said(command.spawn().expect("agentctl"));
        assert_eq!(code, Some(125), "{stderr}");
        assert!(stderr.contains("(caller.root)"), "{stderr}");
    }
    // Neither a caller nor an offer: no descriptor of root's was ever with the launcher.
    let nobody = stage.service.remove(CallerNumber(0), 0, &session());
    assert_eq!(nobody.expect("nobody asks").rule.name(), "caller.unknown");
    stage.launcher.assert_clean(&before);
}
