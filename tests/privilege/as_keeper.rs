//! This program again, as a process of its own: as a client that is another process, and as a compromised
//! keeper. It tries one thing and writes the kernel's error number, or 0.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use agentd_kernel::packets::Packets;
use agentd_kernel::{creds, seccomp};
use agentd_policy::mode::{self, Role};
use agentd_policy::plan::Plan;
use agentd_policy::wire::Ticket;
use agentd_tests::harness::User;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{MountFlags, OpenTreeFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, netlink};
use rustix::process::{Gid, Pid, Uid};
use serde_json::Value;

use crate::asking::{Held, grant, offer_at};
use crate::attempts::{ATTEMPTS, Attempt};
use crate::place::Launcher;

/// What an attempt has: opened as root, before anything is given up.
pub struct Stage {
    target: Value,
    root: bool,
    host: OwnedFd,
    proc: OwnedFd,
    namespaces: Vec<(&'static str, OwnedFd)>,
    groups: Vec<(&'static str, OwnedFd)>,
}

fn open_name(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

impl Stage {
    fn new(target: Value, root: bool) -> io::Result<Self> {
        let mut namespaces = Vec::new();
        for (name, who, kind) in [
            ("session_mnt", "agent", "mnt"),
            ("session_net", "agent", "net"),
            ("session_user", "agent", "user"),
            ("keeper_mnt", "keeper", "mnt"),
            ("keeper_net", "keeper", "net"),
            ("host_mnt", "launcher", "mnt"),
            ("host_net", "launcher", "net"),
            ("other_mnt", "other_agent", "mnt"),
            ("other_net", "other_agent", "net"),
            ("other_user", "other_agent", "user"),
            ("other_pid", "other_agent", "pid"),
        ] {
            let path = format!("/proc/{}/ns/{kind}", target[who]);
            namespaces.push((name, std::fs::File::open(path)?.into()));
        }
        let mut groups = Vec::new();
        for name in ["cgroup", "other_cgroup"] {
            groups.push((name, open_name(target[name].as_str().unwrap_or_default())?));
        }
        Ok(Self { root, host: open_name("/")?, proc: open_name("/proc")?, namespaces, groups, target })
    }

    fn found<'a>(list: &'a [(&'static str, OwnedFd)], name: &str) -> BorrowedFd<'a> {
        list.iter().find(|(n, _)| *n == name).expect("opened at the start").1.as_fd()
    }

    pub fn join(&self, name: &str, kind: CloneFlags) -> io::Result<()> {
        Ok(setns(Self::found(&self.namespaces, name), kind)?)
    }

    fn pid(&self, who: &str) -> Pid {
        let number = self.target[who].as_i64().expect("a pid in the target");
        Pid::from_raw(i32::try_from(number).expect("a pid")).expect("a pid")
    }

    /// A directory and a path in it.
    fn path(&self, text: &str) -> (BorrowedFd<'_>, String) {
        let mut path = text.to_owned();
        for (key, value) in self.target.as_object().expect("an object") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            path = path.replace(&format!("{{{key}}}"), &value);
        }
        for (prefix, dir) in [("leak/", &self.host), ("proc/", &self.proc)] {
            if let Some(rest) = path.strip_prefix(prefix) {
                return (dir.as_fd(), rest.trim_start_matches('/').to_owned());
            }
        }
        (rustix::fs::CWD, path)
    }

    pub fn open(&self, path: &str, flags: OFlags) -> io::Result<()> {
        let (dir, path) = self.path(path);
        rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty())?;
        Ok(())
    }

    pub fn open_at(&self, group: &str, name: &str, flags: OFlags) -> io::Result<()> {
        rustix::fs::openat(Self::found(&self.groups, group), name, flags | OFlags::CLOEXEC, Mode::empty())?;
        Ok(())
    }

    pub fn make_group(&self, group: &str) -> io::Result<()> {
        let dir = Self::found(&self.groups, group);
        rustix::fs::mkdirat(dir, "agentd-test", Mode::from_raw_mode(0o755))?;
        Ok(rustix::fs::unlinkat(dir, "agentd-test", AtFlags::REMOVEDIR)?)
    }

    pub fn create(&self, path: &str) -> io::Result<()> {
        let (dir, path) = self.path(path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(dir, &path, flags, Mode::from_raw_mode(0o755))?;
        Ok(rustix::fs::unlinkat(dir, &path, AtFlags::empty())?)
    }

    pub fn chmod(&self, path: &str, mode: u32) -> io::Result<()> {
        let (dir, path) = self.path(path);
        rustix::fs::chmodat(dir, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(rustix::fs::chmodat(dir, &path, Mode::from_raw_mode(0o644), AtFlags::empty())?)
    }

    pub fn give_to_root(&self) -> io::Result<()> {
        let (dir, path) = self.path("proc/{agent}/cwd/file");
        let before = rustix::fs::statat(dir, &path, AtFlags::empty())?;
        let own = |uid, gid| {
            rustix::fs::chownat(
                dir,
                &path,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::empty(),
            )
        };
        own(0, 0)?;
        Ok(own(before.st_uid, before.st_gid)?)
    }

    pub fn mknod(&self) -> io::Result<()> {
        let kind = rustix::fs::FileType::CharacterDevice;
        let (mode, device) = (Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3));
        Ok(rustix::fs::mknodat(rustix::fs::CWD, "/agentd-test-null", kind, mode, device)?)
    }

    /// Root tries it where it harms nobody.
    fn apart(&self) -> io::Result<()> {
        if self.root {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private)?;
        }
        Ok(())
    }

    pub fn remount(&self) -> io::Result<()> {
        self.apart()?;
        Ok(rustix::mount::mount_remount("/", MountFlags::BIND, c"")?)
    }

    pub fn remount_in_a_copy(&self) -> io::Result<()> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        Ok(rustix::mount::mount_remount("/", MountFlags::BIND, c"")?)
    }

    pub fn mount_tmpfs(&self) -> io::Result<()> {
        self.apart()?;
        Ok(rustix::mount::mount("none", "/", "tmpfs", MountFlags::empty(), None)?)
    }

    pub fn clone_tree(&self) -> io::Result<()> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        if self.root {
            self.join("session_mnt", CloneFlags::CLONE_NEWNS)?;
            rustix::mount::open_tree(rustix::fs::CWD, "/", flags)?;
            return Ok(());
        }
        let (dir, path) = self.path("proc/{agent}/root");
        rustix::mount::open_tree(dir, path, flags)?;
        Ok(())
    }

    pub fn connect(&self, path: &str) -> io::Result<()> {
        let (dir, path) = self.path(path);
        rustix::process::fchdir(dir)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Only whether one may: another connection would take the service's place.
        match self.root {
            true => Ok(rustix::fs::accessat(dir, path, rustix::fs::Access::WRITE_OK, AtFlags::empty())?),
            false => Ok(rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(path.as_str())?)?),
        }
    }

    /// Signal 0: whether it would be delivered.
    pub fn kill(&self, who: &str) -> io::Result<()> {
        Ok(rustix::process::test_kill_process(self.pid(who))?)
    }

    /// The kernel lets go of it when this process ends.
    pub fn seize(&self, who: &str) -> io::Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid(who).as_raw_nonzero().get());
        Ok(nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty())?)
    }

    pub fn read_memory(&self, who: &str) -> io::Result<()> {
        let base = self.target["addresses"][who].as_u64().expect("an address");
        let base = usize::try_from(base).expect("an address");
        let pid = nix::unistd::Pid::from_raw(self.pid(who).as_raw_nonzero().get());
        let mut bytes = [0; 4];
        let remote = [nix::sys::uio::RemoteIoVec { base, len: bytes.len() }];
        let count = nix::sys::uio::process_vm_readv(pid, &mut [io::IoSliceMut::new(&mut bytes)], &remote)?;
        assert_eq!((count, &bytes), (4, b"\x7fELF"));
        Ok(())
    }

    pub fn take_descriptor(&self, who: &str) -> io::Result<()> {
        let pidfd = rustix::process::pidfd_open(self.pid(who), rustix::process::PidfdFlags::empty())?;
        let number = self.target["descriptors"][who].as_i64().expect("a number");
        let number = i32::try_from(number).expect("a descriptor");
        rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty())?;
        Ok(())
    }

    /// Asks nf_tables for its generation, which takes the same right as a change.
    pub fn nft(&self) -> io::Result<()> {
        const GETGEN: u16 = 10 << 8 | 16;
        const REQUEST_ACK: u16 = 5;
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        let mut message = 20_u32.to_ne_bytes().to_vec();
        message.extend(GETGEN.to_ne_bytes());
        message.extend(REQUEST_ACK.to_ne_bytes());
        message.extend([0; 12]);
        rustix::net::send(&socket, &message, SendFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let count = rustix::io::read(&socket, &mut answer)?;
            // An acknowledgement is an error message whose error may be 0.
            if count >= 20 && answer[4..6] == 2_u16.to_ne_bytes() {
                let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
                return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) };
            }
        }
    }

    pub fn raw_socket(&self) -> io::Result<()> {
        let icmp = Some(rustix::net::ipproto::ICMP);
        rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, icmp)?;
        Ok(())
    }

    pub fn become_root(&self) -> io::Result<()> {
        let root = Uid::from_raw(0);
        Ok(rustix::thread::set_thread_res_uid(root, root, root)?)
    }

    /// Becomes what the session's keeper is, step by step as it does.
    fn become_keeper(&self, who: &str) -> io::Result<()> {
        let uid = self.target["keeper_uid"].as_u64().expect("a uid");
        let uid = u32::try_from(uid).expect("a uid");
        self.join("keeper_net", CloneFlags::CLONE_NEWNET)?;
        self.join("keeper_mnt", CloneFlags::CLONE_NEWNS)?;
        creds::become_ids(uid, uid).map_err(io::Error::other)?;
        creds::drop_all_capabilities().map_err(io::Error::other)?;
        creds::no_new_privs().map_err(io::Error::other)?;
        creds::not_dumpable().map_err(io::Error::other)?;
        if who == "owner" {
            self.join("session_user", CloneFlags::CLONE_NEWUSER)?;
        }
        if who == "filtered" {
            let filter =
                seccomp::compile(&seccomp::KEEPER, seccomp::Options { memfd_create: false, set_gid: false });
            let _enforced = seccomp::install(&filter).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Tries `attempt` as `who`: the error number, or 0.
pub fn try_as(who: &str, attempt: &Attempt, target: &Value) -> i32 {
    let output = Command::new("/proc/self/exe")
        .args(["--helper", who, attempt.name, &target.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("this program");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{} as {who}: {output:?}", attempt.name))
}

/// The other lives of this program; `None` if it is the test.
pub fn helper() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--helper", "offer", socket, uid, gid, group, dir, plan] => {
            let number = |text: &str| text.parse().expect("a number");
            let plan = serde_json::from_str(plan).expect("a plan");
            give_offer(socket.as_ref(), (number(uid), number(gid)), number(group), dir.as_ref(), &plan);
        }
        ["--helper", who, name, target] => {
            let attempt = ATTEMPTS.iter().find(|a| a.name == *name).expect("an attempt");
            let target = serde_json::from_str(target).expect("a target");
            let stage = Stage::new(target, *who == "root").expect("root may open all of it");
            if *who != "root" {
                stage.become_keeper(who).expect("root may become a keeper");
            }
            match (attempt.act)(&stage) {
                Ok(()) => println!("0"),
                Err(error) => println!("{}", error.raw_os_error().unwrap_or(-1)),
            }
        }
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// Offers `dir` and hands ticket and socket to the parent, on standard input.
fn give_offer(socket: &Path, ids: (u32, u32), group: u32, dir: &Path, plan: &Plan) {
    let fd = std::fs::File::open(dir).expect("the user's own").into();
    let held = offer_at(socket, ids, group, &[(grant(Role::Workspace, mode::Mode::Direct), fd)], plan);
    let parent = Packets::from_fd(io::stdin().as_fd().try_clone_to_owned().expect("a descriptor"));
    parent.send(&held.ticket.0, &[held.socket.as_fd()]).expect("the parent waits");
}

/// An offer of `dir` by another process of `user`, which agrees to `plan`.
pub fn offer_from_another_process(launcher: &Launcher, user: &User, dir: &Path, plan: &Plan) -> Held {
    let (ours, theirs) = Packets::pair().expect("a pair");
    let socket: PathBuf = launcher.runtime().join("offer.sock");
    let status = Command::new("/proc/self/exe")
        .args(["--helper", "offer"])
        .arg(socket)
        .args([user.uid, user.gid, launcher.socket_gid].map(|n| n.to_string()))
        .arg(dir)
        .arg(serde_json::to_string(plan).expect("a plan as JSON"))
        .stdin(theirs.into_fd())
        .status()
        .expect("this program");
    assert!(status.success());
    let mut packet = ours.receive(64, 1).expect("an offer").expect("an offer");
    let socket = Packets::from_fd(packet.descriptors.pop().expect("the side socket"));
    Held { ticket: Ticket(packet.bytes.try_into().expect("32 bytes")), socket }
}
