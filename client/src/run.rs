//! `agentctl run`: asks what the request would become, offers the paths that it needs, has the session made,
//! and attaches.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_proto::v1::{
    CreateReply, CreateRequest, EnvVar, Exit, KillRequest, ResolveRequest, RunSpec, Timing, WorkspaceSpec,
};
use prost::bytes::Bytes;

use crate::attach::attach;
use crate::cli::RunArgs;
use crate::connect::{Client, Socket, answer};
use crate::failure::{Failure, say};
use crate::offer::{Offer, offer, utf8};
use crate::profile;
use crate::show::{clean_lines, json, print};
use crate::signals::Signals;
use crate::terminal::{Streams, window};

/// The most of the caller's environment that goes along; the profile picks from it.
const MAX_ENV: usize = 64 << 10;
/// How long a session that is being made may still take once we have been asked to end.
const GRACE: Duration = Duration::from_secs(3);

/// Runs a command in a new session. Returns its exit code.
///
/// # Errors
/// If there is no session, or we lost it.
pub async fn run(socket: &Socket, args: RunArgs, started: Instant) -> Result<i32, Failure> {
    let mut steps = Steps { started, last: started, done: vec![] };
    let (dry_run, as_json, timings) = (args.dry_run, args.json, args.timings);
    let spec = spec(args)?;
    steps.mark("agentctl.read");
    let mut client = socket.connect().await?;
    steps.mark("agentctl.connect");
    let resolved = answer(client.resolve(ResolveRequest { spec: Some(spec.clone()) })).await?;
    steps.mark("agentctl.resolve");
    if dry_run {
        print_plan(&resolved.plan_json, as_json)?;
        return Ok(0);
    }
    let offer = offer(&resolved.offer_socket, resolved.paths)?;
    steps.mark("agentctl.offer");
    let mut signals =
        Signals::take().map_err(|error| Failure::failed(format!("cannot take signals: {error}")))?;
    let terminal = spec.terminal;
    let created = create(&client, spec, &offer, &mut signals).await?;
    steps.mark("agentctl.create");
    let exit = attach(&mut client, &created.id, terminal, &mut signals).await;
    steps.mark("agentctl.attach");
    if timings {
        print_timings(created.timings.iter().chain(&steps.done), as_json)?;
    }
    let (code, line) = ending(&exit?);
    if let Some(line) = line {
        say(&line);
    }
    Ok(code)
}

/// Has the session made. A signal meanwhile ends it, not only us.
async fn create(
    client: &Client,
    spec: RunSpec,
    offer: &Offer,
    signals: &mut Signals,
) -> Result<CreateReply, Failure> {
    let ticket = Bytes::copy_from_slice(&offer.ticket);
    let request = CreateRequest { spec: Some(spec), ticket, paths: offer.paths.clone() };
    let mut creator = client.clone();
    let mut creating = std::pin::pin!(creator.create(request));
    let number = tokio::select! {
        reply = &mut creating => return Ok(reply?.into_inner()),
        number = signals.next_ending() => number,
    };
    let clean_up = async {
        if let Ok(reply) = creating.await {
            let id = reply.into_inner().id;
            let _ = client.clone().kill(KillRequest { id, signal: None }).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(GRACE, clean_up) => {}
        _ = signals.next_ending() => {}
    }
    Err(Failure::Quiet(128 + number))
}

fn spec(args: RunArgs) -> Result<RunSpec, Failure> {
    let cwd = std::env::current_dir().map_err(|error| {
        Failure::refused("the current directory", "cwd.open", format!("{error}; go to one that exists"))
    })?;
    let streams = Streams::look();
    let terminal = args.tty || (!args.no_tty && streams.stdin && streams.stdout);
    let workspace = match &args.workspace {
        Some(text) => vec![workspace(text)?],
        None => vec![],
    };
    Ok(RunSpec {
        profile: Some(profile::find(args.profile.as_deref())?),
        name: args.name.unwrap_or_default(),
        command: args.command.into_iter().map(bytes).collect(),
        env: args.env.into_iter().map(env_flag).filter_map(Result::transpose).collect::<Result<_, _>>()?,
        caller_env: caller_env(std::env::vars_os()),
        cwd: utf8(&cwd)?,
        workspace,
        read: args.read.iter().map(|path| absolute("input", Path::new(path))).collect::<Result<_, _>>()?,
        mask: args.mask,
        memory: args.memory,
        pids: args.pids,
        cpus: args.cpus,
        disk: args.disk,
        timeout_ms: args.timeout,
        terminal,
        window: terminal.then(window),
        remove: args.rm,
    })
}

fn bytes(text: OsString) -> Bytes {
    text.into_vec().into()
}

/// `DIR[:MODE]`. What follows a colon and is no mode belongs to the directory's name.
fn workspace(text: &OsStr) -> Result<WorkspaceSpec, Failure> {
    const MODES: &[&str] = &["overlay", "direct", "worktree", "ro"];
    let (dir, mode) = split_mode(text.as_bytes(), MODES);
    let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
    Ok(WorkspaceSpec { path: absolute("workspace", dir)?, mode: mode.to_owned() })
}

fn split_mode<'a>(text: &'a [u8], modes: &[&'static str]) -> (&'a [u8], &'static str) {
    modes
        .iter()
        .find_map(|mode| Some((text.strip_suffix(mode.as_bytes())?.strip_suffix(b":")?, *mode)))
        .unwrap_or((text, ""))
}

/// The kernel's name for `path`.
fn absolute(word: &str, path: &Path) -> Result<String, Failure> {
    let found: PathBuf = path.canonicalize().map_err(|error| {
        Failure::refused(
            format!("{word} {}: {error}", path.display()),
            &format!("{word}.open"),
            "name one that exists and that you may read",
        )
    })?;
    utf8(&found)
}

/// `KEY=VALUE`, or `KEY` with the caller's value; nothing if the caller has none.
fn env_flag(text: OsString) -> Result<Option<EnvVar>, Failure> {
    let text = text.into_vec();
    let cut = text.iter().position(|b| *b == b'=');
    let (key, value) = match cut {
        Some(0) => {
            return Err(Failure::refused(
                format!("--env {}", String::from_utf8_lossy(&text)),
                "environment.name",
                "write KEY=VALUE, or KEY for the value that you have",
            ));
        }
        Some(cut) => (text[..cut].to_vec(), Some(text[cut + 1..].to_vec())),
        None => {
            let value = std::env::var_os(OsStr::from_bytes(&text)).map(OsString::into_vec);
            (text, value)
        }
    };
    Ok(value.map(|value| EnvVar { key: key.into(), value: value.into() }))
}

/// The caller's variables, the short ones first, as far as there is room.
fn caller_env(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<EnvVar> {
    let mut vars: Vec<_> = vars.map(|(key, value)| EnvVar { key: bytes(key), value: bytes(value) }).collect();
    vars.sort_by_key(|var| var.key.len() + var.value.len());
    let mut size = 0;
    vars.retain(|var| {
        size += var.key.len() + var.value.len() + 2;
        size <= MAX_ENV
    });
    vars
}

/// The exit code, and a line if it does not speak for itself.
fn ending(exit: &Exit) -> (i32, Option<String>) {
    let message = Some(exit.message.clone()).filter(|message| !message.is_empty());
    let or = |text: &str| message.clone().or_else(|| Some(text.to_owned()));
    match (exit.reason.as_str(), exit.code, exit.signal) {
        ("exited", Some(code), _) => (code, message),
        ("signaled", _, Some(signal)) => (128 + signal, message),
        ("timeout", ..) => (124, or("the session's time is over")),
        ("oom", ..) => (137, or("the session was out of memory")),
        ("killed", ..) => (137, message),
        ("failed", ..) => (125, or("the session failed")),
        (reason, ..) => (125, or(&format!("the session ended in a way that is not known: {reason:?}"))),
    }
}

fn print_plan(plan: &str, as_json: bool) -> Result<(), Failure> {
    if !as_json {
        return print(&format!("{}\n", clean_lines(plan.trim_end())));
    }
    let value: serde_json::Value = serde_json::from_str(plan)
        .map_err(|error| Failure::failed(format!("agentd sent a plan that is no JSON: {error}")))?;
    print(&(json(&value)? + "\n"))
}

/// How long what took: the launcher's steps count from when it took the request up, ours from our start.
struct Steps {
    started: Instant,
    last: Instant,
    done: Vec<Timing>,
}

impl Steps {
    fn mark(&mut self, step: &str) {
        let now = Instant::now();
        let since = |at: Instant| u64::try_from((at - self.started).as_micros()).unwrap_or(u64::MAX);
        let timing = Timing { step: step.to_owned(), start_us: since(self.last), end_us: since(now) };
        self.done.push(timing);
        self.last = now;
    }
}

fn print_timings<'a>(timings: impl Iterator<Item = &'a Timing>, as_json: bool) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = String::new();
    for timing in timings {
        if as_json {
            out += &json(timing)?;
        } else {
            let Timing { step, start_us, end_us } = timing;
            let took = end_us.saturating_sub(*start_us);
            out += &format!("{start_us:>9} {end_us:>9} {took:>9} µs  {}", clean_lines(step));
        }
        out.push('\n');
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_follows_the_last_colon() {
        let modes = &["overlay", "ro"];
        assert_eq!(split_mode(b"/a:ro", modes), (&b"/a"[..], "ro"));
        assert_eq!(split_mode(b"/a:b", modes), (&b"/a:b"[..], ""));
        assert_eq!(split_mode(b"ro", modes), (&b"ro"[..], ""));
        assert_eq!(split_mode(b"/a:ro:overlay", modes), (&b"/a:ro"[..], "overlay"));
        let spec = workspace(OsStr::new("/usr/../usr:ro")).unwrap();
        assert_eq!((spec.path.as_str(), spec.mode.as_str()), ("/usr", "ro"));
        let refusal = workspace(OsStr::new("/nonexistent")).unwrap_err().to_string();
        assert!(refusal.contains("(workspace.open)"), "{refusal}");
    }

    #[test]
    fn env_flags() {
        let flag = |text: &str| env_flag(text.into()).map(|v| v.map(|v| (v.key, v.value)));
        assert_eq!(flag("A=b=c").unwrap(), Some(("A".into(), "b=c".into())));
        assert_eq!(flag("A=").unwrap(), Some(("A".into(), "".into())));
        assert_eq!(flag("AGENTCTL_TEST_NOT_SET").unwrap(), None);
        assert!(flag("PATH").unwrap().is_some());
        assert!(flag("=b").is_err());
    }

    #[test]
    fn the_environment_is_bounded_and_short_variables_come_first() {
        let big = ("BIG".into(), "x".repeat(MAX_ENV).into());
        let vars = [big, ("TERM".into(), "xterm".into())];
        let sent = caller_env(vars.into_iter());
        assert_eq!(sent.iter().map(|v| v.key.as_ref()).collect::<Vec<_>>(), [b"TERM"]);
    }

    #[test]
    fn exit_codes() {
        let exit =
            |reason: &str, code, signal| Exit { reason: reason.into(), code, signal, ..Exit::default() };
        for (exit, code, speaks) in [
            (exit("exited", Some(3), None), 3, false),
            (exit("signaled", None, Some(15)), 143, false),
            (exit("timeout", None, None), 124, true),
            (exit("oom", None, None), 137, true),
            (exit("killed", None, None), 137, false),
            (exit("failed", None, None), 125, true),
            (exit("?", None, None), 125, true),
        ] {
            let (got, line) = ending(&exit);
            assert_eq!((got, line.is_some()), (code, speaks), "{exit:?}");
        }
        let not_found = Exit { message: "x: not found".into(), ..exit("exited", Some(127), None) };
        assert_eq!(ending(&not_found), (127, Some("x: not found".into())));
    }
}
