//! What the cases attack on the host, made once, and a workspace for each of them.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use agentd_tests::harness::{User, World};
use agentd_tests::probe::Case;

/// What is in every secret file.
pub const MARKER: &str = "this-is-the-callers-secret";
const INPUT: &str = "what may be read\n";
const GIT_CONFIG: &str = "[core]\n\tbare = false\n";
/// A variable's value in the environment of a process of the caller's.
const ENV_MARKER: &str = "this-is-in-an-environment";

/// Things of the host that a session must not reach.
struct Host {
    sleeper: Mutex<Child>,
    port: u16,
    abstract_name: String,
    shm: (String, String),
    queue: (PathBuf, String),
    system: System,
    _busy: Vec<OwnedFd>,
    _listeners: Vec<UnixListener>,
    _tcp: Vec<TcpListener>,
}

static HOST: OnceLock<Host> = OnceLock::new();

fn host(world: &World) -> &'static Host {
    HOST.get_or_init(|| {
        let user = world.a();
        user.write(user.home.join(".ssh/id_test"), MARKER);
        let input = user.home.join("input");
        user.write(input.join("file"), INPUT);
        std::fs::remove_file(input.join("link")).ok();
        std::fs::remove_file(input.join("link-root")).ok();
        symlink(user.home.join(".ssh/id_test"), input.join("link")).expect("a new link");
        symlink("/etc/shadow", input.join("link-root")).expect("a new link");
        let single = user.home.join("single");
        user.write(&single, INPUT);
        let system = System::make(user);
        let places = [&input, &system.opt, &system.usr];
        let mut busy: Vec<OwnedFd> = places.iter().flat_map(|dir| fill_busy(dir)).collect();
        busy.push(lock(&single));
        keep_busy(places.iter().map(|dir| dir.join("busy")).chain([single]).collect());
        let (tcp, port) = same_port();
        let abstract_name = world.unique("agentd-test-abstract");
        let name = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let listeners = vec![
            listener(user, &input.join("sock")),
            listener(user, &user.home.join("agent.sock")),
            listener(&User::root(), &system.opt.join("sock")),
            listener(&User::root(), &system.usr.join("sock")),
            UnixListener::bind_addr(&name).expect("a new abstract socket"),
        ];
        let sleeper = sleeper(user);
        let queue = (world.daemon().probe(), format!("agentd-test-{}", sleeper.id()));
        let made = Command::new(&queue.0).args(["--make-queue", &queue.1]).output().expect("the probe");
        assert!(made.stdout.starts_with(b"Ok"), "a message queue: {made:?}");
        Host {
            sleeper: Mutex::new(sleeper),
            queue,
            port,
            abstract_name,
            shm: shared_memory(),
            system,
            _busy: busy,
            _listeners: listeners,
            _tcp: tcp,
        }
    })
}

/// Directories among the system's that are the test's own.
pub struct System {
    pub opt: PathBuf,
    pub usr: PathBuf,
}

/// What their names begin with, before the number of the process that made them.
const SYSTEM: &str = "agentd-test-";

impl System {
    fn make(user: &User) -> Self {
        let [opt, usr] = ["/opt", "/usr/share"].map(|above| {
            sweep(Path::new(above));
            let dir = Path::new(above).join(format!("{SYSTEM}{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("root may");
            let group = *user.groups().first().expect("the group that may connect");
            for (name, uid, gid, mode) in [
                ("own", user.uid, user.gid, 0o600),
                ("groups", 0, user.gid, 0o640),
                ("members", 0, group, 0o640),
            ] {
                let path = dir.join(name);
                std::fs::write(&path, MARKER).expect("a new file");
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root may");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            }
            dir
        });
        Self { opt, usr }
    }
}

/// Takes away what runs left there that were killed.
fn sweep(above: &Path) {
    for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SYSTEM)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// The directories of this run among the system's.
pub fn system(world: &World) -> &'static System {
    &host(world).system
}

/// Makes what is watched, locked and read from in `dir`: a directory, a file that the host holds a lock on, and a FIFO
/// that a process reads from and has written to.
fn fill_busy(dir: &Path) -> Vec<OwnedFd> {
    std::fs::create_dir_all(dir.join("busy")).expect("a new directory");
    std::fs::write(dir.join("busy/file"), INPUT).expect("a new file");
    std::fs::write(dir.join("locked"), INPUT).expect("a new file");
    let (fifo, all) = (dir.join("fifo"), rustix::fs::Mode::from_raw_mode(0o666));
    std::fs::remove_file(&fifo).ok();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, all, 0).expect("a new FIFO");
    std::fs::set_permissions(&fifo, std::fs::Permissions::from_mode(0o666)).expect("ours");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let process = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).expect("both ends");
    rustix::io::write(&process, &[b'x'; 4096]).expect("room for it");
    vec![process, lock(&dir.join("locked"))]
}

/// A lock on `path` as long as the descriptor lives.
fn lock(path: &Path) -> OwnedFd {
    let file = std::fs::File::open(path).expect("a file");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    file.into()
}

/// A thread that opens and changes `paths` as long as this process lives, and opens /etc/ssl.
fn keep_busy(paths: Vec<PathBuf>) {
    std::thread::spawn(move || {
        loop {
            for path in &paths {
                std::fs::read(path.join("file")).ok();
                std::fs::read(path).ok();
                std::fs::write(path.join("new"), "x").ok();
                std::fs::remove_file(path.join("new")).ok();
            }
            std::fs::read_dir("/etc/ssl").map(|entries| entries.count()).ok();
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
}

/// A port that is listened on in IPv4 and IPv6.
fn same_port() -> (Vec<TcpListener>, u16) {
    let v4 = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = v4.local_addr().expect("our own socket").port();
    let v6 = TcpListener::bind(("::1", port)).expect("the same port");
    (vec![v4, v6], port)
}

/// A socket that everybody may connect to.
fn listener(user: &User, path: &Path) -> UnixListener {
    std::fs::remove_file(path).ok();
    let listener = UnixListener::bind(path).expect("a new socket");
    user.own(path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    listener
}

/// A process of the user's, with a secret in its environment.
fn sleeper(user: &User) -> Child {
    user.command("/usr/bin/setpriv")
        .args(["--pdeathsig", "KILL", "--", "/bin/bash", "-c", "exec -a agentd-test-sleeper-$$ sleep 100000"])
        .env("AGENTD_TEST_SECRET", ENV_MARKER)
        .stdin(Stdio::null())
        .spawn()
        .expect("setpriv")
}

/// A System V segment that everybody may use: its id and key.
fn shared_memory() -> (String, String) {
    let made = Command::new("ipcmk").args(["-M", "4096", "-p", "0666"]).output().expect("ipcmk");
    let text = String::from_utf8_lossy(&made.stdout);
    let id = text.split_whitespace().last().expect("an id").to_owned();
    let all = std::fs::read_to_string("/proc/sysvipc/shm").expect("/proc/sysvipc/shm");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let line = all.lines().map(words).find(|words| words.get(1) == Some(&id)).expect("the new segment");
    (id, line[0].clone())
}

/// After all the signals, traces and limits: the process of the caller's on the host still sleeps.
pub fn sleeper_lives(world: &World) {
    let mut sleeper = host(world).sleeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(sleeper.try_wait().expect("our own child").is_none(), "the caller's process was ended");
}

/// Takes away what does not end with this process.
pub fn remove() {
    if let Some(host) = HOST.get() {
        for dir in [&host.system.opt, &host.system.usr] {
            std::fs::remove_dir_all(dir).ok();
        }
        Command::new("ipcrm").args(["-m", &host.shm.0]).status().ok();
        Command::new(&host.queue.0).args(["--make-queue", &host.queue.1, "remove"]).output().ok();
        let mut sleeper = host.sleeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sleeper.kill().ok();
        sleeper.wait().ok();
    }
}

/// Where one case is tried.
pub struct Place {
    /// A workspace of its own.
    pub workspace: PathBuf,
    words: Vec<(&'static str, String)>,
}

impl Place {
    pub fn new(world: &World, case: &Case) -> Self {
        let host = host(world);
        let user = world.a();
        let workspace = world.workspace(user);
        fill(world, &workspace);
        // A workspace that holds a socket is refused in the mode `direct`.
        if case.name == "socket_in_workspace" {
            std::mem::forget(listener(user, &workspace.join("sock")));
        }
        let sleeper = host.sleeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).id();
        let path = |path: &Path| path.display().to_string();
        let words = vec![
            ("{ws}", path(&workspace)),
            ("{home}", path(&user.home)),
            ("{secret}", path(&user.home.join(".ssh/id_test"))),
            ("{other_home}", path(&world.b().home)),
            ("{input}", path(&user.home.join("input"))),
            ("{single}", path(&user.home.join("single"))),
            ("{opt}", path(&host.system.opt)),
            ("{usr}", path(&host.system.usr)),
            ("{state}", path(&world.daemon().state())),
            ("{runtime}", path(&world.daemon().runtime())),
            ("{socket}", path(&world.daemon().socket())),
            ("{host_socket}", path(&user.home.join("agent.sock"))),
            ("{host_pid}", sleeper.to_string()),
            ("{host_port}", host.port.to_string()),
            ("{abstract}", host.abstract_name.clone()),
            ("{shm_key}", host.shm.1.clone()),
            ("{marker}", MARKER.to_owned()),
            ("{env_marker}", ENV_MARKER.to_owned()),
        ];
        Self { workspace, words }
    }

    /// `text` with every `{…}` filled in.
    pub fn fill(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    /// Fails if the session changed what it must not, whatever it said of it.
    pub fn assert_unharmed(&self, world: &World) {
        let same = |path: &Path, text: &str| {
            let now = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(now, text, "{}", path.display());
        };
        let user = world.a();
        same(&user.home.join(".ssh/id_test"), MARKER);
        same(&user.home.join("input/file"), INPUT);
        same(&self.workspace.join(".env"), MARKER);
        same(&self.workspace.join("conf/secret.key"), MARKER);
        same(&self.workspace.join(".git/config"), GIT_CONFIG);
        let hooks = std::fs::read_dir(self.workspace.join(".git/hooks")).expect("the directory of hooks");
        assert_eq!(hooks.count(), 0, "a hook was left");
        plain_files(&self.workspace, user);
    }

    /// All of them.
    pub fn fill_all(&self, texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| self.fill(text)).collect()
    }
}

/// What was made belongs to the user and has no bit and no kind that is more than a file's.
fn plain_files(dir: &Path, user: &User) {
    for entry in std::fs::read_dir(dir).expect("the user's directory").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("a file"));
        if path.ends_with("suid-probe") {
            continue;
        }
        let kind = meta.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device(), "{}", path.display());
        assert_eq!(meta.permissions().mode() & 0o6000, 0, "{}", path.display());
        assert_eq!((meta.uid(), meta.gid()), (user.uid, user.gid), "{}", path.display());
        if kind.is_dir() {
            plain_files(&path, user);
        }
    }
}

fn fill(world: &World, workspace: &Path) {
    let user = world.a();
    let write = |name: &str, content: &str| user.write(workspace.join(name), content);
    write("README", "a project\n");
    write(".env", MARKER);
    write("conf/secret.key", MARKER);
    write("other/secret.key", "nothing\n");
    write(".git/config", GIT_CONFIG);
    write(".git/HEAD", "ref: refs/heads/main\n");
    user.make_dir(workspace.join(".git/hooks"));
    write("own", "#!/bin/true\n");
    std::fs::hard_link(setuid_probe(world), workspace.join("suid-probe")).expect("the same file system");
}

/// A program of root's that is set-user-ID. It is large, and one for all cases.
fn setuid_probe(world: &World) -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = world.workspace(world.a()).join("probe");
        std::fs::copy(world.daemon().probe(), &program).expect("a copy of the probe");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("root's own file");
        program
    })
}
