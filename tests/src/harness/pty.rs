//! A person's terminal.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A terminal, seen from the side of the person in front of it.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
    seen: Vec<u8>,
}

impl Pty {
    /// Opens one of 24 lines of 80 characters.
    pub fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a pty");
        rustix::pty::unlockpt(&master).expect("our own pty");
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("our own pty");
        let pty = Self { master, slave, seen: vec![] };
        pty.resize(24, 80);
        pty
    }

    /// Starts `command` (which agentctl is in) with this as its controlling terminal.
    pub fn spawn(&self, command: &Command) -> Child {
        let mut leader = Command::new("/usr/bin/setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                leader.env(key, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        let side = || self.slave.try_clone().expect("a descriptor");
        leader.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid")
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("our own pty");
    }

    /// Writes to the master, as a keyboard does.
    pub fn write(&self, bytes: &[u8]) {
        let written = rustix::io::write(&self.master, bytes).expect("our own pty");
        assert_eq!(written, bytes.len());
    }

    /// How it is set.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("our own pty")
    }

    /// Whether lines are edited and echoed, as a shell leaves it.
    pub fn is_cooked(&self) -> bool {
        use rustix::termios::LocalModes;
        self.settings().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end of `child`: all that was shown until then, byte for byte.
    ///
    /// # Panics
    /// If it does not end within a minute.
    #[track_caller]
    pub fn read_to_end(&mut self, child: &mut Child) -> Vec<u8> {
        let start = Instant::now();
        loop {
            let ended = child.try_wait().expect("our own child").is_some();
            // What was written before the end is there at the end.
            while self.read_some(Duration::from_millis(if ended { 0 } else { 50 })) {}
            if ended {
                return std::mem::take(&mut self.seen);
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        }
    }

    /// Takes what is shown up within `limit`; whether there was anything.
    fn read_some(&mut self, limit: Duration) -> bool {
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&wait)).expect("poll");
        if ready > 0 {
            let mut block = [0; 4096];
            let mut master =
                std::fs::File::from(self.master.as_fd().try_clone_to_owned().expect("a descriptor"));
            let count = master.read(&mut block).expect("our own pty");
            self.seen.extend(&block[..count]);
        }
        ready > 0
    }

    /// Reads until `text` has been shown; all that was shown since the last time.
    ///
    /// # Panics
    /// If it is not shown within ten seconds.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let so_far = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = so_far.find(text) {
                let shown = so_far[..at + text.len()].to_owned();
                self.seen = so_far.as_bytes()[at + text.len()..].to_vec();
                return shown;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{text:?} is not shown, but {so_far:?}");
            self.read_some(Duration::from_millis(100));
        }
    }
}
