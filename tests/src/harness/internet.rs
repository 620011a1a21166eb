//! An internet to test with: two network namespaces, of which nothing leaves the machine. In `host` the daemon under
//! test runs; in `internet` every address is answered for: a resolver that is also every name's authority, web
//! servers behind many names, ssh, git, package indexes, echoes.

mod dns;
mod echo;
mod files;
mod names;
mod netns;
mod over_tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

pub use dns::{Question, Resolver};
pub use netns::NetNs;
pub use over_tls::RejectWith;

use super::daemon::Setup;
use super::host::within;
use super::program::start;
use super::users::{User, Users};
use super::wait::wait_for_exit;
use super::world::World;

/// What the daemon's `agentd.toml` says of this internet: its addresses are ranges for documentation.
const CONFIG: &str = r#"
[egress]
resolvers = ["192.0.2.53:53"]
allow_private_ranges = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]
"#;

/// Addresses of `host`'s own, a public one, and the second of a network, and somebody who listens on them.
const OWN: [&str; 2] = ["20.30.40.50:80", "10.66.0.9:80"];
/// For two more servers.
const NODE: &str = "/usr/bin/node";
/// Descriptors: for ten thousand connections and all else.
const OPEN_FILES: u64 = 16_384;

/// All of it. Ends with the value, or with this process.
#[derive(Debug)]
pub struct Internet {
    host: NetNs,
    internet: NetNs,
    dir: PathBuf,
    resolver: Resolver,
    loopback: u16,
    programs: Mutex<Vec<Child>>,
}

impl Internet {
    /// Makes the namespaces, starts every server, and waits until each listens.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start() -> Self {
        let users = Users::ensure();
        open_files();
        let (host, internet) = linked();
        let dir = PathBuf::from(format!("/tmp/agentd-test-internet-{}", std::process::id()));
        files::make(&dir, &users.b);
        let resolver = internet.enter(dns::Resolver::start);
        internet.enter(|| over_tls::start(&dir, &resolver));
        internet.enter(|| echo::serve(&["203.0.113.7:7", "[2001:db8::7]:7"]));
        let loopback = host.enter(echo::on_loopback);
        host.enter(|| echo::serve(&OWN));
        let world = Self { host, internet, dir, resolver, loopback, programs: Mutex::default() };
        world.serve();
        world
    }

    /// Where the daemon under test runs, and its users.
    pub fn host(&self) -> &NetNs {
        &self.host
    }

    /// The namespace of every server that sessions reach.
    pub fn internet(&self) -> &NetNs {
        &self.internet
    }

    /// Who answers for all names.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// A port of the loopback of `host`, IPv4 and IPv6, on which an echo listens.
    pub fn loopback_port(&self) -> u16 {
        self.loopback
    }

    /// The certificate of the authority that all its servers' are signed by.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The key that opens its ssh server for user b.
    pub fn ssh_key(&self) -> PathBuf {
        self.dir.join("id_ssh")
    }

    /// The repository behind its ssh server, from user b's home on.
    pub fn repository(&self) -> String {
        format!("~/{}", files::repository_name())
    }

    /// A daemon of the test's own on `host`, with this internet around it.
    pub fn world(&self) -> World {
        World::of(self.setup(""))
    }

    /// The same, without sessions that are prepared: what is there of any is of those that were asked for.
    pub fn world_without_spares(&self) -> World {
        World::of(self.setup("prewarmed_sessions = 0"))
    }

    /// The same, with launcher and service apart, as a service manager starts them.
    pub fn world_of_units(&self) -> World {
        World::of(self.setup("prewarmed_sessions = 0").as_units())
    }

    fn setup(&self, more: &str) -> Setup {
        Setup::with(&format!("{more}\n{CONFIG}")).in_network(&self.host.path())
    }

    /// The file that is `http://good.test/bulk`.
    pub fn bulk(&self) -> PathBuf {
        self.dir.join("www/good.test/bulk")
    }

    /// The same, on a site that has blocklists with these names and lines.
    pub fn world_with(&self, lists: &[(&str, &str)]) -> World {
        let paths: Vec<String> = lists
            .iter()
            .map(|(name, lines)| {
                let path = self.dir.join(name);
                std::fs::write(&path, lines).expect("a new file");
                format!("{:?}", path.display().to_string())
            })
            .collect();
        let config = format!("{CONFIG}blocklists = [{}]\n", paths.join(", "));
        World::of(Setup::with(&config).in_network(&self.host.path()))
    }

    /// The same, on a site that reaches names by the proxy at `address` alone, which wants to know this of its clients.
    pub fn world_through(&self, address: &str, credential: &str) -> World {
        let path = self.dir.join("proxy-credential");
        std::fs::write(&path, credential).expect("a new file");
        let config = format!("{CONFIG}proxy = \"{address}\"\nproxy_credential = \"{}\"\n", path.display());
        World::of(Setup::with(&config).in_network(&self.host.path()))
    }

    /// The same, on a site whose sessions look for names in `domain`.
    pub fn world_searching(&self, domain: &str) -> World {
        let config = format!("{CONFIG}search = [\"{domain}\"]\n");
        World::of(Setup::with(&config).in_network(&self.host.path()))
    }

    /// The same, on a site with these keys in `[bounds]`.
    pub fn world_within(&self, bounds: &str) -> World {
        let config = format!("{CONFIG}[bounds]\n{bounds}");
        World::of(Setup::with(&config).in_network(&self.host.path()))
    }

    /// Another daemon, which asks this resolver, as `agentd.toml` has it, or several with commas, and believes the
    /// trust anchors in `trust`.
    pub fn world_asking(&self, resolvers: &str, trust: &Path) -> World {
        let trust = format!("resolvers = [{resolvers}]\ntrust = \"{}\"", trust.display());
        let config = CONFIG.replace("resolvers = [\"192.0.2.53:53\"]", &trust);
        World::of(Setup::with(&config).in_network(&self.host.path()))
    }

    /// A command of `user` on `host`, which asks the resolver here.
    pub fn command(&self, user: &User, program: impl AsRef<Path>) -> Command {
        let theirs = user.command(program);
        let mut command = self.host.command("/usr/bin/unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", script]);
        command.arg(self.dir.join("resolv.conf")).arg(theirs.get_program()).args(theirs.get_args());
        command.env_clear().envs(theirs.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin").current_dir(&user.home);
        command
    }

    /// What its web servers have been asked for: a line each, `HOST METHOD URI`.
    pub fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn serve(&self) {
        let config = self.dir.join("nginx.conf");
        self.begin("/usr/sbin/nginx", &["-c", &config.display().to_string()]);
        for script in ["app.py", "loose.py"] {
            self.begin("/usr/bin/python3", &[&self.dir.join(script).display().to_string()]);
        }
        // Where a host has no node, the tests that need it say so.
        let mut all =
            vec!["192.0.2.80:80", "[2001:db8::80]:443", "192.0.2.22:22", "127.0.0.1:8081", "192.0.2.80:8000"];
        if Path::new(NODE).exists() {
            self.begin(NODE, &[&self.dir.join("loose.js").display().to_string()]);
            all.extend(["192.0.2.80:3000", "192.0.2.80:8050"]);
        }
        let key = self.dir.join("host_key").display().to_string();
        self.begin("/usr/sbin/dropbear", &["-F", "-E", "-s", "-r", &key, "-p", "192.0.2.22:22", "-P", ""]);
        for address in all {
            let address: SocketAddr = address.parse().expect("an address");
            let up = within(Duration::from_secs(20), || {
                self.internet.enter(|| std::net::TcpStream::connect(address)).map(drop)
            });
            assert!(up.is_ok(), "nobody listens on {address}: {up:?}\n{}", self.log());
        }
    }

    fn begin(&self, program: &str, args: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log"));
        let log = log.expect("a new file");
        let mut command = self.internet.command("/usr/bin/setpriv");
        command.args(["--pdeathsig", "TERM", "--", program]).args(args).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = start(command).unwrap_or_else(|e| panic!("{program}: {e}"));
        self.programs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(child);
    }

    /// What its servers have written.
    pub fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("log") + &read("error.log")
    }

    /// Ends its servers and takes away what they had.
    pub fn end(&self) {
        let mut programs = self.programs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for child in programs.iter_mut() {
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
            kill_process(pid, Signal::TERM).ok();
            if wait_for_exit(child, Duration::from_secs(5)).is_none() {
                child.kill().ok();
                child.wait().ok();
            }
        }
        programs.clear();
        files::forget(&Users::ensure().b);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.end();
    }
}

/// Room for all the connections of a crowd, here where they end and in what is started from here.
fn open_files() {
    let limits = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.map(|limit| limit.max(OPEN_FILES));
    let wanted = Rlimit { current: enough(limits.current), maximum: enough(limits.maximum) };
    setrlimit(Resource::Nofile, wanted).expect("root may have more");
}

/// `host` and `internet`, each at one end of a link. Whatever has no other way goes to `internet`, and there every
/// address is its own.
fn linked() -> (NetNs, NetNs) {
    let (host, internet) = (NetNs::new(), NetNs::new());
    let there = internet.path();
    host.ip(&[&format!("link add net0 type veth peer name host0 netns {}", there.display())]);
    host.ip(&["addr add 10.66.0.1/24 dev net0", "addr add fd66::1/64 dev net0 nodad", "link set net0 up"]);
    host.ip(&["addr add 20.30.40.50/32 dev net0", "addr add 10.66.0.9/24 dev net0"]);
    internet.ip(&[
        "addr add 10.66.0.2/24 dev host0",
        "addr add fd66::2/64 dev host0 nodad",
        "link set host0 up",
        "route add local default dev lo table main",
        "-6 route add local default dev lo table main",
        "route add blackhole 198.51.100.250",
        "-6 route add blackhole 2001:db8:dead::/48",
    ]);
    host.ip(&["route add default via 10.66.0.2", "-6 route add default via fd66::2"]);
    internet.enter(|| {
        // To answer from an address that is only routed here.
        std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").expect("our own namespace");
    });
    (host, internet)
}
