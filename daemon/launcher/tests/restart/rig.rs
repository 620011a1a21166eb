//! A launcher with a service that is played by the test, and a client that is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::consent::Consent;
use agentd_policy::digest::Digest;
use agentd_policy::limits::Limits;
use agentd_policy::mode::{Mode, Role};
use agentd_policy::mount::Workspace;
use agentd_policy::names::{AbsPath, RelPath, SessionId, UserName};
use agentd_policy::offer::{FromClient, Grant, Offer, ToClient};
use agentd_policy::plan::Plan;
use agentd_policy::wire::{
    CallerNumber, FromLauncher, FromService, MAX_PACKET, RequestNumber, Ticket, decode, encode,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};

/// The service's uid: nobody.
pub const SERVICE: u32 = 65_534;
/// The uid and gid of the caller.
pub const CALLER: u32 = 54_321;
/// How long anything may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// One launcher's place on the host.
pub struct Rig {
    pub base: PathBuf,
    pub state: PathBuf,
    pub config: PathBuf,
    pub launcher: Option<Child>,
}

/// Whether `lease` is of a session of which nothing is left, and waits until nothing is counted for its ids either: its
/// record, behind length and sum, ends with that and three empty lists.
fn is_at_rest(lease: &Path) -> bool {
    let bytes = std::fs::read(lease).unwrap_or_default();
    let length = bytes.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    bytes.get(12..12 + length).is_some_and(|record| record.ends_with(&[1, 0, 0, 0]))
}

/// A service's connection, and what a client needs.
pub struct Service {
    pub packets: Packets,
    /// What the launcher said first.
    pub live: Vec<SessionId>,
    pub caller: CallerNumber,
    base: PathBuf,
    clients: Vec<OwnedFd>,
}

/// A session that runs, with what its service holds.
pub struct Built {
    pub id: SessionId,
    _keeper: OwnedFd,
    _relay: OwnedFd,
}

impl Rig {
    pub fn new(number: u32) -> Self {
        let base = PathBuf::from(format!("/srv/agentd-launcher-{}-{number}", std::process::id()));
        std::fs::create_dir_all(base.join("work")).unwrap();
        std::os::unix::fs::chown(base.join("work"), Some(CALLER), Some(CALLER)).unwrap();
        // Where an upper directory can be, which not every root file system allows.
        let state = std::env::temp_dir().join(format!("agentd-launcher-{}-{number}", std::process::id()));
        let first = 1_980_000_000 + number * 3000;
        let config = base.join("agentd.toml");
        let text = format!(
            "socket = \"{0}/run/agentd.sock\"\nruntime_dir = \"{0}/run\"\nstate_dir = \"{2}\"\n\
             profile_dirs = []\nsecrets_dir = \"{0}/secrets\"\nservice_user = \"nobody\"\n\
             socket_group = \"nogroup\"\nadmin_group = \"daemon\"\n[pool]\nuids = \"{first}-{1}\"\n\
             [bounds]\nuser_memory = \"3G\"\nuser_pids = 300\nhost_pids = 1000\n\
             [egress]\nallow_private_ranges = [\"11.0.0.0/8\"]\n",
            base.display(),
            first + 2999,
            state.display(),
        );
        std::fs::write(&config, text).unwrap();
        Self { base, state, config, launcher: None }
    }

    /// Starts a launcher as its unit would.
    pub fn start(&mut self) -> Service {
        self.start_with("")
    }

    /// The same, with a fault in what its builders prepare.
    pub fn start_with(&mut self, fault: &str) -> Service {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-launcher"));
        command.arg("--config").arg(&self.config).env("AGENTD_FAULT", fault).stdin(Stdio::null());
        self.launcher = Some(command.spawn().unwrap());
        self.connect()
    }

    /// Starts a launcher with a service of its own: `script`, for a shell, beside a copy of the launcher.
    pub fn start_by_hand(&mut self, script: &str) {
        let bin = self.base.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_agentd-launcher"));
        for name in ["agentd-launcher", "agentd-relay"] {
            std::fs::copy(built.with_file_name(name), bin.join(name)).unwrap();
        }
        let service = bin.join("agentd");
        std::fs::write(&service, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&service, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(bin.join("agentd-launcher"));
        command.arg("--config").arg(&self.config).arg("--with-service").stdin(Stdio::null());
        self.launcher = Some(command.spawn().unwrap());
    }

    /// The launcher's children.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.launcher.as_ref().unwrap().id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// How it ended, once it has.
    pub fn wait(&mut self) -> ExitStatus {
        self.launcher.take().unwrap().wait().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.launcher.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the launcher with a signal, and waits for that.
    pub fn end(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        self.signal(signal);
        self.launcher.take().unwrap().wait().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.launcher.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Connects as the service, and a client as the caller.
    pub fn connect(&self) -> Service {
        let packets =
            Packets::from_fd(dial(&self.base.join("run/service.sock"), SocketType::SEQPACKET, SERVICE));
        let mut service = Service {
            packets,
            live: Vec::new(),
            caller: CallerNumber(0),
            base: self.base.clone(),
            clients: Vec::new(),
        };
        let (FromLauncher::Live { sessions, last, .. }, _) = service.next() else {
            panic!("not the first word")
        };
        assert!(last);
        let (FromLauncher::Metrics, _) = service.next() else { panic!("not the second") };
        service.live = sessions;
        service.caller = service.client(CALLER);
        service
    }

    /// Every trace: groups of this daemon, names of keepers, records of leases, overlays.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (dir, kind) in [
            (self.base.join("run/keepers"), "socket"),
            (self.base.join("run/leases"), "lease"),
            (self.state.join(format!("overlays/u{CALLER}")), "overlay"),
        ] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            let entries = entries.map(|entry| entry.unwrap()).filter(|entry| !is_at_rest(&entry.path()));
            found.extend(entries.map(|entry| format!("{kind} {}", entry.file_name().display())));
        }
        let placeholder = self.base.join("work/.env");
        found.extend(placeholder.exists().then(|| "placeholder".to_owned()));
        for root in self.groups() {
            found.push(format!("cgroup {}", root.display()));
        }
        found
    }

    /// Groups of the caller's sessions, in whatever hierarchy. The caller's own stays while something is charged to it.
    pub fn groups(&self) -> Vec<PathBuf> {
        let kinds =
            self.roots().into_iter().flat_map(|root| ["agents", "helpers"].map(|kind| root.join(kind)));
        let users = kinds.filter_map(|kind| std::fs::read_dir(kind.join(format!("u{CALLER}"))).ok());
        users.flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// The daemon's own groups.
    pub fn roots(&self) -> Vec<PathBuf> {
        let mut hasher = DefaultHasher::new();
        self.base.join("run").to_str().unwrap().hash(&mut hasher);
        let name = format!("agentd-{:08x}", hasher.finish() & 0xffff_ffff);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let roots =
            points.filter_map(|line| line.split(' ').nth(4)).map(|point| Path::new(point).join(&name));
        roots.filter(|root| root.exists()).collect()
    }

    /// Waits until nothing is left.
    pub fn await_clean(&self) {
        let until = Instant::now() + REPLY_TIMEOUT;
        while !self.traces().is_empty() {
            assert!(Instant::now() < until, "left behind: {:?}", self.traces());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rig {
    /// Ends the launcher and, after a failure, what it would have left to another.
    fn drop(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            launcher.kill().ok();
            launcher.wait().ok();
        }
        for root in self.roots() {
            std::fs::write(root.join("cgroup.kill"), "1").ok();
        }
        let until = Instant::now() + REPLY_TIMEOUT;
        while self.roots().iter().any(|root| remove(root).is_err()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_dir_all(&self.base).ok();
        std::fs::remove_dir_all(&self.state).ok();
    }
}

/// Removes a group and those below.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove(&entry.path())?;
    }
    std::fs::remove_dir(group)
}

/// Connects under another uid, as soon as somebody listens.
pub fn dial(path: &Path, kind: SocketType, uid: u32) -> OwnedFd {
    let until = Instant::now() + REPLY_TIMEOUT;
    loop {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let address = SocketAddrUnix::new(path).unwrap();
        let groups = rustix::process::getgroups().unwrap();
        let root = Uid::from_raw(0);
        rustix::thread::set_thread_groups(&[Gid::from_raw(65_534)]).unwrap();
        let group = |effective| {
            let root = Gid::from_raw(0);
            rustix::thread::set_thread_res_gid(root, Gid::from_raw(effective), root).unwrap();
        };
        group(uid);
        rustix::thread::set_thread_res_uid(root, Uid::from_raw(uid), root).unwrap();
        let connected = rustix::net::connect(&socket, &address);
        rustix::thread::set_thread_res_uid(root, root, root).unwrap();
        group(0);
        rustix::thread::set_thread_groups(&groups).unwrap();
        match connected {
            Ok(()) => return socket,
            Err(errno) => assert!(Instant::now() < until, "{}: {errno}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Service {
    /// The next message.
    pub fn next(&self) -> (FromLauncher, Vec<OwnedFd>) {
        self.packets.set_nonblocking(true).unwrap();
        let until = Instant::now() + REPLY_TIMEOUT;
        loop {
            match self.packets.receive(MAX_PACKET, 253) {
                Ok(Some(packet)) => return (decode(&packet.bytes).unwrap(), packet.descriptors),
                Err(PacketError::WouldBlock) => {}
                other => panic!("the launcher is gone: {other:?}"),
            }
            assert!(Instant::now() < until, "the launcher is silent");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One more client.
    pub fn client(&mut self, uid: u32) -> CallerNumber {
        let client = dial(&self.base.join("run/agentd.sock"), SocketType::STREAM, uid);
        let (FromLauncher::Caller { number, peer, .. }, connection) = self.next() else {
            panic!("no caller")
        };
        assert_eq!(peer.uid, uid);
        self.clients.push(client);
        self.clients.extend(connection);
        number
    }

    pub fn say(&self, message: &FromService) {
        self.packets.send(&encode(message).unwrap(), &[]).unwrap();
    }

    /// Offers the working directory, for `plan`; the ticket.
    fn offer(&self, mode: Mode, plan: &Plan) -> (Ticket, Packets) {
        let side = Packets::from_fd(dial(&self.base.join("run/offer.sock"), SocketType::SEQPACKET, CALLER));
        let work = std::fs::File::open(self.base.join("work")).unwrap();
        let grants = vec![Grant { role: Role::Workspace, mode }];
        let offer = FromClient::Offer(Box::new(Offer { consent: Consent::to(plan).unwrap(), grants }));
        side.send(&encode(&offer).unwrap(), &[work.as_fd()]).unwrap();
        let received = || decode(&side.receive(MAX_PACKET, 0).unwrap().unwrap().bytes).unwrap();
        assert!(matches!(received(), ToClient::Site(_)));
        let ToClient::Held(ticket) = received() else { panic!("refused") };
        (ticket, side)
    }

    /// Asks for a session that works in the working directory.
    pub fn ask(&self, id: u8, mode: Mode, command: &[&str], fault: &str) -> (SessionId, Packets) {
        self.ask_with(id, mode, command, fault, |_| {})
    }

    /// The same, with a plan that is changed before it is sent.
    pub fn ask_with(
        &self,
        id: u8,
        mode: Mode,
        command: &[&str],
        fault: &str,
        change: impl FnOnce(&mut Plan),
    ) -> (SessionId, Packets) {
        let session = SessionId::from_random([id; 6]);
        let path = AbsPath::parse(self.base.join("work").to_str().unwrap()).unwrap();
        let direct = mode == Mode::Direct;
        let mut plan = Plan {
            session: session.clone(),
            profile: Digest::default(),
            user: UserName::parse("caller").unwrap(),
            home: AbsPath::parse("/home/caller").unwrap(),
            shell: AbsPath::parse("/bin/sh").unwrap(),
            command: command.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: vec![
                (b"PATH".to_vec(), b"/usr/bin:/bin".to_vec()),
                (b"AGENTD_FAULT".to_vec(), fault.as_bytes().to_vec()),
            ],
            cwd: path.clone(),
            terminal: None,
            workspaces: vec![Workspace {
                path,
                descriptor: 0,
                mode,
                mask: if direct { vec![RelPath::parse(".env").unwrap()] } else { vec![] },
                mask_anywhere: vec![],
                protect: vec![],
                sockets: vec![],
                git: None,
            }],
            inputs: vec![],
            scratch: vec![],
            home_size: 1 << 20,
            limits: Limits {
                memory: 256 << 20,
                pids: 50,
                cpus: 1.0,
                disk: 1 << 30,
                inodes: 1 << 20,
                timeout_ms: 600_000,
                idle_ms: 0,
                open_files: 1024,
            },
            landlock_abi: 2,
            remove: false,
            umask: 0o022,
            egress: None,
        };
        change(&mut plan);
        let (ticket, side) = self.offer(mode, &plan);
        let request = RequestNumber(u64::from(id));
        self.say(&FromService::Build { request, caller: self.caller, ticket, plan: Box::new(plan) });
        (session, side)
    }

    /// The same, until it runs.
    pub fn run(&self, id: u8, mode: Mode) -> Built {
        let (id, _side) = self.ask(id, mode, &["sleep", "600"], "");
        match self.next() {
            (FromLauncher::Built { .. }, descriptors) => {
                let [keeper, relay] = <[OwnedFd; 2]>::try_from(descriptors).unwrap();
                Built { id, _keeper: keeper, _relay: relay }
            }
            other => panic!("not built: {other:?}"),
        }
    }

    /// Ends a session and waits until nothing is left of it.
    pub fn finish(&self, session: &SessionId) {
        self.say(&FromService::End { session: session.clone() });
        match self.next() {
            (FromLauncher::Gone { session: gone, errors }, _) => {
                assert_eq!(&gone, session);
                assert!(errors.is_empty(), "{errors:?}");
            }
            other => panic!("not gone: {other:?}"),
        }
    }
}
