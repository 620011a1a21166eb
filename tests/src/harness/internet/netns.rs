//! A network namespace of the test's own, without a name anywhere.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::probe::sys;

/// One, for as long as the value or a process in it lives.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Makes one, whose `lo` is up.
    ///
    /// # Panics
    /// If the kernel does not let us.
    pub fn new() -> Self {
        let made = || -> io::Result<OwnedFd> {
            sys::call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()])?;
            Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
        };
        let made = std::thread::scope(|scope| scope.spawn(made).join().expect("it does not panic"));
        let namespace = Self(made.expect("root may have a network namespace"));
        namespace.ip(&["link set lo up"]);
        namespace
    }

    /// A path of it, for programs and for as long as this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs `act` on a thread that is in it: sockets that it makes stay there.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = move || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            act()
        };
        std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that enters it and then runs `program`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// `ip LINE` for each.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn ip(&self, lines: &[&str]) {
        for line in lines {
            let output = self.command("ip").args(line.split(' ')).output().expect("nsenter");
            assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Its connections that have `end` at either end, a line of /proc/net/tcp each. Not those that are over and only
    /// remembered.
    pub fn connections(&self, end: SocketAddrV4) -> Vec<String> {
        let text = self.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).expect("/proc");
        let address = u32::from_ne_bytes(end.ip().octets());
        let end = format!("{address:08X}:{:04X}", end.port());
        let open = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            matches!(words[..], [_, local, remote, state, ..]
                if (local == end || remote == end) && !["06", "0A"].contains(&state))
        };
        text.lines().filter(open).map(str::to_owned).collect()
    }

    /// How many connections the kernel tracks there: none, if nobody has asked for it.
    pub fn tracked(&self) -> u64 {
        let file = "/proc/sys/net/netfilter/nf_conntrack_count";
        // A host without the module has no such file, and tracks nothing.
        let text = self.enter(|| std::fs::read_to_string(file));
        text.map_or(0, |text| text.trim().parse().expect("a number"))
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}
