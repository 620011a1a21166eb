//! A relay with what the builder, the service and the keeper would hold: its other ends.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd_kernel::packets::Packets;
use agentd_policy::wire::{FromRelay, ToRelay, decode, encode, frame};
use command_fds::{CommandFdExt, FdMapping};
use rustix::pty::OpenptFlags;

/// As it was built.
pub const BINARY: &str = env!("CARGO_BIN_EXE_agentd-relay");

pub struct Relay {
    pub child: Child,
    pub service: Service,
    /// The keeper's end.
    pub control: Option<Packets>,
}

/// The service's end of one command's stream. What comes is acknowledged as it is read.
#[derive(Clone)]
pub struct Service(pub Arc<UnixStream>, Arc<Mutex<State>>);

/// What the service knows of the command, whatever becomes of the stream.
#[derive(Clone, Copy, Default)]
pub struct State {
    /// Bytes of output that it has.
    pub got: u64,
    /// Bytes of input that were sent, and that the relay says were taken.
    pub sent: u64,
    pub taken: u64,
    /// Whether it acknowledges.
    pub silent: bool,
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
    let (service, theirs) = Service::pair(State::default());
    let (control, their_control) = Packets::pair().unwrap();
    let fds = [theirs, their_control.into_fd()].into_iter().chain(command);
    let mappings = fds.zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    let mut start = Command::new(binary);
    start.arg(mode).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    start.fd_mappings(mappings).unwrap();
    setup(&mut start);
    let child = loop {
        match start.spawn() {
            // Another test forks while a copy of the program is written.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            child => break child.unwrap(),
        }
    };
    Relay { child, service, control: Some(control) }
}

pub fn pipes() -> (Relay, Pipes) {
    pipes_with(Path::new(BINARY), |_| {})
}

/// The relay's ends of three pipes, and the command's.
pub fn streams() -> (Vec<OwnedFd>, Pipes) {
    let (stdin, to_stdin) = std::io::pipe().unwrap();
    let (from_stdout, stdout) = std::io::pipe().unwrap();
    let (from_stderr, stderr) = std::io::pipe().unwrap();
    (vec![to_stdin.into(), from_stdout.into(), from_stderr.into()], Pipes { stdin, stdout, stderr })
}

/// As [`pipes`], with another file to run and a last word before it starts.
pub fn pipes_with(binary: &Path, setup: impl FnOnce(&mut Command)) -> (Relay, Pipes) {
    let (command, pipes) = streams();
    (relay(binary, "pipes", command, setup), pipes)
}

/// A relay and the slave of its terminal.
pub fn terminal() -> (Relay, OwnedFd) {
    let (master, slave) = pty();
    (relay(Path::new(BINARY), "terminal", vec![master], |_| {}), slave)
}

/// Master and slave.
pub fn pty() -> (OwnedFd, OwnedFd) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    (master, slave)
}

/// Runs a shell script on a terminal, which ends with it.
pub fn sh_on(slave: OwnedFd, script: &str) -> Child {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", script]);
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
    command.spawn().unwrap()
}

impl Service {
    /// A stream for a service that knows this much; the relay's end.
    pub fn pair(state: State) -> (Self, OwnedFd) {
        let (service, theirs) = UnixStream::pair().unwrap();
        service.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (Self(Arc::new(service), Arc::new(Mutex::new(state))), theirs.into())
    }

    pub fn state(&self) -> State {
        *self.1.lock().unwrap()
    }

    pub fn set_silent(&self) {
        self.1.lock().unwrap().silent = true;
    }

    /// Sends a frame; one of input waits until there is room for it.
    pub fn send(&self, kind: u8, payload: &[u8]) {
        let start = Instant::now();
        while kind == frame::STDIN && !self.has_room(payload.len()) {
            assert!(start.elapsed() < Duration::from_secs(20), "no room for input");
            std::thread::sleep(Duration::from_micros(100));
        }
        let mut state = self.1.lock().unwrap();
        state.sent += if kind == frame::STDIN { payload.len() as u64 } else { 0 };
        self.write(kind, payload);
    }

    /// Whether so much input may be sent.
    pub fn has_room(&self, len: usize) -> bool {
        let state = self.state();
        state.sent + len as u64 <= state.taken + frame::INPUT_WINDOW
    }

    /// The lock on the state is that on the stream.
    fn write(&self, kind: u8, payload: &[u8]) {
        let bytes = [&frame::header(kind, payload.len()).unwrap()[..], payload].concat();
        let written = (&*self.0).write_all(&bytes);
        // The relay may have received the acknowledgement of all before it sent that nothing more comes.
        assert!(written.is_ok() || kind == frame::ACK, "{written:?}");
    }

    /// Begins a stream that is not the first; the bytes of input that the command has taken.
    pub fn resume(&self) -> u64 {
        self.send(frame::RESUME, &self.state().got.to_le_bytes());
        let (kind, payload) = self.frame().unwrap();
        assert_eq!(kind, frame::INPUT);
        let taken = u64::from_le_bytes(payload.try_into().unwrap());
        let mut state = self.1.lock().unwrap();
        (state.taken, state.sent) = (taken, taken);
        taken
    }

    /// The next frame as it comes; `None` at the end.
    pub fn frame(&self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; frame::HEADER];
        let (first, rest) = header.split_at_mut(1);
        match rustix::io::retry_on_intr(|| rustix::io::read(&*self.0, &mut *first)) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return None,
            other => other.unwrap(),
        };
        (&*self.0).read_exact(rest).unwrap();
        let (kind, len) = frame::parse(header).unwrap();
        let mut payload = vec![0; len];
        (&*self.0).read_exact(&mut payload).unwrap();
        Some((kind, payload))
    }

    /// The next frame of output, or of a screen; `None` at the end. It is acknowledged.
    pub fn next(&self) -> Option<(u8, Vec<u8>)> {
        loop {
            let (kind, payload) = self.frame()?;
            let mut state = self.1.lock().unwrap();
            match kind {
                frame::INPUT => {
                    state.taken = u64::from_le_bytes(payload.try_into().unwrap());
                    continue;
                }
                frame::STDOUT | frame::STDERR => state.got += payload.len() as u64,
                _ => {}
            }
            if !state.silent && kind != frame::SCREEN {
                self.write(frame::ACK, &state.got.to_le_bytes());
            }
            return Some((kind, payload));
        }
    }

    /// Everything up to the end: standard output, standard error.
    pub fn rest(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some((kind, payload)) = self.next() {
            match kind {
                frame::STDOUT => out.extend(payload),
                frame::STDERR => err.extend(payload),
                frame::DRAINED => return (out, err),
                other => panic!("frame of kind {other}"),
            }
        }
        panic!("the last frame is missing; got {} and {} bytes", out.len(), err.len());
    }
}

impl Relay {
    pub fn send(&self, kind: u8, payload: &[u8]) {
        self.service.send(kind, payload);
    }

    /// As the keeper.
    pub fn order(&self, message: &ToRelay, descriptors: &[OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
        self.control.as_ref().unwrap().send(&encode(message).unwrap(), &descriptors).unwrap();
    }

    /// How many descriptors it has.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The next message to the keeper.
    pub fn said(&self) -> FromRelay {
        let packet = self.control.as_ref().unwrap().receive(64, 0).unwrap().unwrap();
        decode(&packet.bytes).unwrap()
    }

    /// The service is another one, which knows what this one knew.
    pub fn reconnect(&mut self, command: u32) {
        let (service, theirs) = Service::pair(self.service.state());
        self.order(&ToRelay::Connect { command }, &[theirs]);
        self.service = service;
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let [r, c] = [rows.to_le_bytes(), columns.to_le_bytes()];
        self.send(frame::RESIZE, &[r[0], r[1], c[0], c[1]]);
    }

    pub fn next(&self) -> Option<(u8, Vec<u8>)> {
        self.service.next()
    }

    pub fn rest(&self) -> (Vec<u8>, Vec<u8>) {
        self.service.rest()
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

    /// The session is over.
    pub fn assert_ends_well(&mut self) {
        self.order(&ToRelay::Over, &[]);
        let (status, said) = self.end(Duration::from_secs(3));
        assert!(status.success(), "{status}: {said}");
        assert_eq!(said, "");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
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
