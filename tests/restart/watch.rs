//! A client that is attached, and what it has been shown.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentd_tests::harness::{Session, patience, wait_for_exit};

/// Longer than anything takes: a build that hangs has 20 seconds.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);

/// agentctl, with somebody who reads all that it writes.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    reader: JoinHandle<()>,
    errors: JoinHandle<String>,
    shown: String,
    count: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Seen {
    /// All of its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
}

impl Client {
    pub fn start(session: &Session<'_>, command: &[&str]) -> Self {
        let mut child = session.spawn(command);
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("a pipe");
        let mut stderr = child.stderr.take().expect("a pipe");
        let (to, lines) = channel();
        let reader = std::thread::spawn(move || {
            let mut stdout: BufReader<ChildStdout> = BufReader::new(stdout);
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|n| n > 0) {
                if to.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).ok();
            text
        });
        Self { child, stdin, lines, reader, errors, shown: String::new(), count: 0 }
    }

    /// Waits until it has shown so many lines.
    ///
    /// # Panics
    /// If it ends before.
    #[track_caller]
    pub fn await_lines(&mut self, count: usize) {
        let start = Instant::now();
        while self.count < count {
            match self.lines.recv_timeout(patience(LINE_TIMEOUT).saturating_sub(start.elapsed())) {
                Ok(line) => {
                    self.shown += &line;
                    self.count += 1;
                }
                Err(error) => {
                    let ended = self.child.try_wait();
                    panic!("line {} does not come ({error}); agentctl: {ended:?}", self.count + 1);
                }
            }
        }
    }

    /// Types a line.
    pub fn write(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).expect("agentctl reads");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("our own child");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn end(mut self) -> Seen {
        let status = wait_for_exit(&mut self.child, LINE_TIMEOUT);
        if status.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        self.reader.join().expect("the reader");
        self.shown.extend(self.lines.try_iter());
        let errors = self.errors.join().expect("the reader");
        let code = status.unwrap_or_else(|| panic!("agentctl does not end; it says {errors:?}")).code();
        Seen { output: self.shown, errors, code }
    }
}
