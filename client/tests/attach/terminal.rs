//! A terminal, and a program at it.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Terminal {
    writer: std::fs::File,
    slave: OwnedFd,
    output: mpsc::Receiver<Vec<u8>>,
    said: String,
}

impl Terminal {
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty()).unwrap();
        let writer = std::fs::File::from(master);
        let mut reader = writer.try_clone().unwrap();
        let (to, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { writer, slave, output, said: String::new() }
    }

    pub fn spawn(&self, command: &mut Command) -> Child {
        let stdio = || Stdio::from(self.slave.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// Everything that was said, once `text` was.
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + OUTPUT_TIMEOUT;
        while !self.said.contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.said += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("{text:?} never came: {:?}", self.said),
            }
        }
        self.said.clone()
    }

    pub fn settings(&self) -> String {
        let termios = rustix::termios::tcgetattr(&self.slave).unwrap();
        format!("{:?} {:?} {:?}", termios.input_modes, termios.output_modes, termios.local_modes)
    }
}
