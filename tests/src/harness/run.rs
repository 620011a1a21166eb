//! `agentctl run` as a user types it, and what came of it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::users::User;
use super::wait::{patience, wait_for_exit};
use super::world::World;

/// Longer than any command of a test takes.
const RUN_TIMEOUT: Duration = Duration::from_secs(90);

/// A session that is to be run.
pub struct Session<'a> {
    world: &'a World,
    user: &'a User,
    cwd: PathBuf,
    name: String,
    options: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
}

/// What came of a command.
#[derive(Debug)]
pub struct RunOutput {
    /// The session's name.
    pub name: String,
    /// agentctl's exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl RunOutput {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless the code is `code`.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

impl<'a> Session<'a> {
    /// In the directory `cwd`, by `user`.
    pub fn new(world: &'a World, user: &'a User, cwd: impl Into<PathBuf>) -> Self {
        let name = world.unique("s");
        Self { world, user, cwd: cwd.into(), name, options: vec![], env: vec![], stdin: vec![] }
    }

    /// One more option of `agentctl run`.
    #[must_use]
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().into());
        self
    }

    /// More options of `agentctl run`.
    #[must_use]
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.as_ref().into()));
        self
    }

    /// Its programs have no proxy in their environment: what they do is seen as it is between them and the network.
    pub fn past_the_proxy(self) -> Self {
        let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        self.options(names.iter().flat_map(|name| ["--env".to_owned(), format!("{name}=")]))
    }

    /// Gives it the probe to run.
    #[must_use]
    pub fn with_probe(self) -> Self {
        let dir = self.world.daemon().probe_dir();
        self.option("--read").option(dir)
    }

    /// A variable of the caller's environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.into(), value.as_ref().into()));
        self
    }

    /// What agentctl reads on its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The session's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// agentctl with all of it, as a command that is not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Command {
        let mut agentctl = self.user.command(self.world.daemon().agentctl());
        agentctl
            .arg("--socket")
            .arg(self.world.daemon().socket())
            .args(["run", "--name", &self.name])
            .args(&self.options)
            .arg("--")
            .args(command)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.cwd);
        agentctl
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> RunOutput {
        let mut agentctl = self.command(command);
        complete(&mut agentctl, self.stdin, self.name)
    }

    /// Runs a script in bash.
    pub fn bash(self, script: &str) -> RunOutput {
        self.run(["bash", "-c", script])
    }

    /// Starts a command and lets it run.
    pub fn spawn<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Child {
        let mut agentctl = self.command(command);
        agentctl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        agentctl.spawn().expect("setpriv")
    }

    /// Starts a script in bash that says `ready` first, and waits for that.
    ///
    /// # Panics
    /// If it says something else.
    #[track_caller]
    pub fn spawn_ready(&self, script: &str) -> Child {
        let mut child = self.spawn(["bash", "-c", script]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        if line != "ready\n" {
            child.kill().ok();
            let mut said = String::new();
            child.stderr.as_mut().expect("a pipe").read_to_string(&mut said).ok();
            panic!("{} says {line:?} and not that it is ready: {said}", self.name);
        }
        child
    }
}

/// Runs `command` to its end with `stdin` as its input.
///
/// # Panics
/// If it does not end.
pub fn complete(command: &mut Command, stdin: Vec<u8>, name: String) -> RunOutput {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("setpriv");
    let (mut input, mut output, mut error) =
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(input), Some(output), Some(error)) => (input, output, error),
            _ => unreachable!("all three are pipes"),
        };
    let writer = std::thread::spawn(move || {
        // A command need not read what it is given.
        input.write_all(&stdin).ok();
    });
    let stdout = std::thread::spawn(move || {
        let mut bytes = vec![];
        output.read_to_end(&mut bytes).map(|_| bytes)
    });
    let stderr = std::thread::spawn(move || {
        let mut bytes = vec![];
        error.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = wait_for_exit(&mut child, patience(RUN_TIMEOUT));
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    writer.join().expect("the writer");
    let read = |thread: std::thread::JoinHandle<std::io::Result<Vec<u8>>>| {
        thread.join().expect("a reader").expect("a pipe")
    };
    let (stdout, stderr) = (read(stdout), String::from_utf8_lossy(&read(stderr)).into_owned());
    let Some(status) = status else {
        panic!(
            "{name} did not end within {RUN_TIMEOUT:?}\nstdout: {}\nstderr: {stderr}",
            String::from_utf8_lossy(&stdout)
        );
    };
    RunOutput { name, code: status.code(), stdout, stderr }
}

impl World {
    /// `agentctl ARGS` by `user`.
    pub fn agentctl<S: AsRef<OsStr>>(&self, user: &User, args: impl IntoIterator<Item = S>) -> RunOutput {
        let mut agentctl = user.command(self.daemon().agentctl());
        agentctl.arg("--socket").arg(self.daemon().socket()).args(args);
        complete(&mut agentctl, vec![], "agentctl".into())
    }

    /// `agentctl ARGS` by `user`, as a command that is not started yet, with nothing to read and nobody who reads.
    pub fn client<S: AsRef<OsStr>>(&self, user: &User, args: impl IntoIterator<Item = S>) -> Command {
        let mut agentctl = user.command(self.daemon().agentctl());
        agentctl.arg("--socket").arg(self.daemon().socket()).args(args);
        agentctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        agentctl
    }

    /// The events of a session, as its user sees them; checked for what holds of every stream.
    ///
    /// # Panics
    /// If agentctl fails or the stream is not whole.
    #[track_caller]
    pub fn events(&self, user: &User, name: &str) -> Vec<Value> {
        let output = self.agentctl(user, ["events", name, "--json"]).expect_code(0);
        let events = objects(&output.text());
        for (event, number) in events.iter().zip(1..) {
            assert_eq!(event["seq"], number, "events are counted without gaps: {event}");
        }
        events
    }

    /// The events of a session that is over.
    ///
    /// # Panics
    /// If the stream is not whole.
    #[track_caller]
    pub fn all_events(&self, user: &User, name: &str) -> Vec<Value> {
        let events = self.events(user, name);
        let kind = |at: Option<&Value>| at.map(|e| e["kind"].clone()).unwrap_or_default();
        assert_eq!(kind(events.first()), "session.created", "{events:#?}");
        assert_eq!(kind(events.last()), "session.ended", "{events:#?}");
        events
    }

    /// Runs a command as `user` on the host itself.
    pub fn on_host(&self, user: &User, cwd: &Path, command: &[String]) -> RunOutput {
        let mut outside = user.command(&command[0]);
        outside.args(&command[1..]).current_dir(cwd);
        complete(&mut outside, vec![], command.join(" "))
    }
}

/// One JSON object a line.
///
/// # Panics
/// If a line is none.
#[track_caller]
pub fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// What is at a JSON pointer, as text without quotes; empty if nothing is.
pub fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
