//! A relay with what the builder, the service and the keeper would hold: its other ends.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentd_policy::wire::frame;
use command_fds::{CommandFdExt, FdMapping};
use rustix::pty::OpenptFlags;

/// As it was built.
pub const BINARY: &str = env!("CARGO_BIN_EXE_agentd-relay");

pub struct Relay {
    pub child: Child,
    pub service: UnixStream,
    pub lifeline: Option<PipeWriter>,
}

/// The command's ends of the three pipes.
pub struct Pipes {
    pub stdin: PipeReader,
    pub stdout: PipeWriter,
    pub stderr: PipeWriter,
}

impl Pipes {
    /// Runs a shell script on them.
    pub fn sh(self, script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(self.stdin).stdout(self.stdout).stderr(self.stderr);
        command.spawn().unwrap()
    }
}

fn relay(binary: &Path, mode: &str, command: Vec<OwnedFd>, setup: impl FnOnce(&mut Command)) -> Relay {
    let (service, theirs) = UnixStream::pair().unwrap();
    let (lifeline_read, lifeline) = std::io::pipe().unwrap();
    service.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let fds = [theirs.into(), lifeline_read.into()].into_iter().chain(command);
    let mappings = fds.zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    let mut start = Command::new(binary);
    start.arg(mode).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    start.fd_mappings(mappings).unwrap();
    setup(&mut start);
    Relay { child: start.spawn().unwrap(), service, lifeline: Some(lifeline) }
}

pub fn pipes() -> (Relay, Pipes) {
    pipes_with(Path::new(BINARY), |_| {})
}

/// As [`pipes`], with another file to run and a last word before it starts.
pub fn pipes_with(binary: &Path, setup: impl FnOnce(&mut Command)) -> (Relay, Pipes) {
    let (stdin, to_stdin) = std::io::pipe().unwrap();
    let (from_stdout, stdout) = std::io::pipe().unwrap();
    let (from_stderr, stderr) = std::io::pipe().unwrap();
    let command = vec![to_stdin.into(), from_stdout.into(), from_stderr.into()];
    let relay = relay(binary, "pipes", command, setup);
    (relay, Pipes { stdin, stdout, stderr })
}

/// A relay and the slave of its terminal.
pub fn terminal() -> (Relay, OwnedFd) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    (relay(Path::new(BINARY), "terminal", vec![master], |_| {}), slave)
}

/// Runs a shell script on a terminal, which ends with it.
pub fn sh_on(slave: OwnedFd, script: &str) -> Child {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", script]);
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
    command.spawn().unwrap()
}

impl Relay {
    pub fn send(&self, kind: u8, payload: &[u8]) {
        send(&self.service, kind, payload);
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let [r, c] = [rows.to_le_bytes(), columns.to_le_bytes()];
        self.send(frame::RESIZE, &[r[0], r[1], c[0], c[1]]);
    }

    /// The next frame; `None` at the end.
    pub fn next(&self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; frame::HEADER];
        let (first, rest) = header.split_at_mut(1);
        if rustix::io::retry_on_intr(|| rustix::io::read(&self.service, &mut *first)).unwrap() == 0 {
            return None;
        }
        (&self.service).read_exact(rest).unwrap();
        let (kind, len) = frame::parse(header).unwrap();
        let mut payload = vec![0; len];
        (&self.service).read_exact(&mut payload).unwrap();
        Some((kind, payload))
    }

    /// Everything up to the end: standard output, standard error. The last frame is checked.
    pub fn rest(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err, mut drained) = (Vec::new(), Vec::new(), false);
        while let Some((kind, payload)) = self.next() {
            assert!(!drained, "something came after the last frame");
            match kind {
                frame::STDOUT => out.extend(payload),
                frame::STDERR => err.extend(payload),
                frame::DRAINED => drained = true,
                other => panic!("frame of kind {other}"),
            }
        }
        assert!(drained, "the last frame is missing; got {} and {} bytes", out.len(), err.len());
        (out, err)
    }

    /// What comes on the terminal until `end` is in it.
    pub fn until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.contains(end) {
            let (kind, payload) = self.next().unwrap_or_else(|| panic!("no {end:?} in {text:?}"));
            assert_eq!(kind, frame::STDOUT, "after {text:?}");
            text.push_str(&String::from_utf8_lossy(&payload));
        }
        text
    }

    /// How it ended, within `limit`, and what it said.
    pub fn end(&mut self, limit: Duration) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < limit, "it did not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }

    pub fn assert_ends_well(&mut self) {
        let (status, said) = self.end(Duration::from_secs(3));
        assert!(status.success(), "{status}: {said}");
        assert_eq!(said, "");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn send(mut service: &UnixStream, kind: u8, payload: &[u8]) {
    service.write_all(&frame::header(kind, payload.len()).unwrap()).unwrap();
    service.write_all(payload).unwrap();
}

/// Bytes in which no piece repeats.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len).collect()
}
