//! The session that `doctor` makes: it tries five things that no session may do, for real, and what the
//! kernel answers is compared with what it should.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{
    AskedLimits, AttachInput, AttachOpen, Check, Event, EventsRequest, RemoveRequest, RunSpec, WorkspaceSpec,
};
use rustix::fs::Mode;
use tokio_stream::StreamExt as _;

use crate::ask::Question;
use crate::check::check;
use crate::connect::{Client, Socket, answer};
use crate::failure::Failure;
use crate::offer::utf8;
use crate::run::make;
use crate::side::Begun;
use crate::signals::Signals;
use crate::spec::Asked;
use crate::steps::Steps;

/// How long the whole may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The built-in profile that gives no file of the caller's away.
const BARE: &str = "base";
/// The most that it may say.
const MAX_OUTPUT: usize = 64 << 10;

/// Each act prints a line: its name, its exit code, what it said. 127: there is no program to try it with.
const SCRIPT: &str = r#"
export LC_ALL=C
act() {
    name=$1; shift
    said=$("$@" 2>&1 </dev/null); code=$?
    printf '%s|%s|%s\n' "$name" "$code" "$(printf %s "$said" | tr '\n|' '  ')"
}
connect() {
    if command -v bash >/dev/null; then bash -c 'exec 3<>/dev/tcp/192.0.2.1/80'
    elif command -v python3 >/dev/null; then python3 -c 'import socket; socket.create_connection(("192.0.2.1", 80), 5)'
    elif command -v nc >/dev/null; then nc -w 5 192.0.2.1 80
    elif command -v curl >/dev/null; then curl -sS -m 5 http://192.0.2.1/
    else return 127
    fi
}
root() {
    if command -v unshare >/dev/null; then unshare -U -r -m true
    elif command -v mount >/dev/null; then mount -t tmpfs tmpfs /tmp
    else return 127
    fi
}
outside() { if [ -e "/proc/$1" ]; then return 0; fi; kill -0 "$1"; }
act shadow cat /etc/shadow
act connect connect
act root root
act usr sh -c ': > /usr/agentd-canary'
act process outside "$1"
"#;

/// An act, and how it must fail.
struct Act {
    name: &'static str,
    what: &'static str,
    errors: &'static [&'static str],
}

const ACTS: [Act; 5] = [
    Act { name: "shadow", what: "read /etc/shadow", errors: &["No such file", "Permission denied"] },
    Act { name: "connect", what: "connect to 192.0.2.1 port 80", errors: &["refused"] },
    Act { name: "root", what: "become root of a namespace", errors: &["not permitted", "ermission denied"] },
    Act { name: "usr", what: "write to /usr", errors: &["Read-only file system", "ermission denied"] },
    Act {
        name: "process",
        what: "find a process of the host",
        errors: &["No such process", "not permitted"],
    },
];

/// Lets the session try. Never fails: what goes wrong is what it reports.
pub async fn self_test(socket: &Socket) -> Vec<Check> {
    match tokio::time::timeout(TEST_TIMEOUT, perform(socket)).await {
        Ok(Ok((output, events))) => judge(&output, &events),
        Ok(Err(failure)) => vec![unmade(&failure)],
        Err(_) => vec![unmade(&Failure::failed(format!("it took more than {} s", TEST_TIMEOUT.as_secs())))],
    }
}

/// A refusal because of the caller is no property of the host.
fn unmade(failure: &Failure) -> Check {
    let impact = "it was not tried whether sessions hold";
    match failure {
        Failure::Refused { rule, .. } if rule.starts_with("caller") || rule.starts_with("bounds") => {
            let fix = "run doctor as a user who may start sessions, or with --no-canary";
            check("canary", "reduced", failure.to_string(), impact, fix)
        }
        _ => check(
            "canary",
            "missing",
            failure.to_string(),
            impact,
            "fix what is named; the daemon's log may say more",
        ),
    }
}

/// Makes the session, lets it end, and takes its events before it is forgotten.
async fn perform(socket: &Socket) -> Result<(String, Vec<Event>), Failure> {
    // Root's session needs no path: nothing of root's is opened for it.
    let workspace = match rustix::process::geteuid().is_root() {
        true => None,
        false => Some(Workspace::new()?),
    };
    let question =
        Question::new(Begun::connect(socket)?, asked(workspace.as_ref().map(|dir| dir.0.as_path()))?)?;
    let mut client = socket.connect().await?;
    let mut signals = Signals::take_over()?;
    let mut steps = Steps::new(std::time::Instant::now());
    let id = make(&client, question, &mut signals, &mut steps).await?.id;
    let output = listen(&mut client, &id).await;
    let events = recorded(&mut client, &id).await;
    // What went wrong before matters more.
    let removed = answer(client.remove(RemoveRequest { id, force: true })).await;
    let found = (output?, events?);
    removed.map(|_| found)
}

fn asked(workspace: Option<&Path>) -> Result<Asked, Failure> {
    let outside = own_pid().to_string();
    let command = ["sh", "-c", SCRIPT, "canary", outside.as_str()];
    let cwd = workspace.map_or(Ok("/".to_owned()), utf8)?;
    let spec = RunSpec {
        command: command.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
        workspace: match workspace {
            Some(_) => vec![WorkspaceSpec { path: cwd.clone(), mode: String::new() }],
            None => vec![],
        },
        cwd,
        limits: Some(AskedLimits { timeout_ms: Some(30_000), ..AskedLimits::default() }),
        ..RunSpec::default()
    };
    let profile = workspace.is_none().then(|| BARE.into());
    Ok(Asked { profile, environment: vec![], spec })
}

/// A process that lives as long as the session, with a number that none in a young pid namespace has.
fn own_pid() -> u32 {
    const YOUNG: u32 = 300;
    let others = || {
        let entries = std::fs::read_dir("/proc").ok()?;
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).find(|pid| *pid > YOUNG)
    };
    let own = std::process::id();
    if own > YOUNG { own } else { others().unwrap_or(own) }
}

async fn listen(client: &mut Client, id: &str) -> Result<String, Failure> {
    let open = AttachOpen { id: id.to_owned(), resume: Some(0), ..AttachOpen::default() };
    // The stream of input stays open: its end would be ours.
    let input =
        tokio_stream::iter([In::Open(open), In::StdinEof(true)].map(|kind| AttachInput { kind: Some(kind) }));
    let input = input.chain(tokio_stream::pending());
    let mut inbound = client.attach(input).await?.into_inner();
    let mut output = Vec::new();
    while let Some(message) = inbound.message().await? {
        match message.kind {
            Some(Out::Stdout(bytes) | Out::Stderr(bytes)) if output.len() + bytes.len() <= MAX_OUTPUT => {
                output.extend_from_slice(&bytes);
            }
            Some(Out::Exit(exit)) if exit.reason != "exited" => {
                return Err(Failure::failed(format!("the session {}: {}", exit.reason, exit.message)));
            }
            Some(Out::Exit(_)) => return Ok(String::from_utf8_lossy(&output).into_owned()),
            _ => {}
        }
    }
    Err(Failure::unreachable("agentd ended the stream before the session's exit was known"))
}

async fn recorded(client: &mut Client, id: &str) -> Result<Vec<Event>, Failure> {
    let request = EventsRequest { id: id.to_owned(), ..EventsRequest::default() };
    let mut stream = client.events(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        events.push(event);
    }
    Ok(events)
}

/// One check an act, and one for what is on record.
fn judge(output: &str, events: &[Event]) -> Vec<Check> {
    let mut checks: Vec<_> = ACTS.iter().map(|act| act.judge(output)).collect();
    let tried = |name: &str| checks.iter().any(|check| check.name == name && check.status == "ok");
    let denied = |event: &Event| {
        let to = |net: &agentd_proto::v1::NetDetail| net.address == "192.0.2.1" && net.port == Some(80);
        event.kind == "net.denied" && event.net.as_ref().is_some_and(to)
    };
    let execs = events.iter().filter(|event| event.kind == "process.exec").count();
    let name = "canary.record";
    let impact = "what sessions do and are denied does not show in `agentctl events`";
    let fix = "look for audit.dropped among the session's events, and in the daemon's log";
    checks.push(if tried("canary.connect") && !events.iter().any(denied) {
        check(name, "missing", "the denied connection is not on record", impact, fix)
    } else if execs == 0 {
        check(name, "missing", "no program that was started is on record", impact, fix)
    } else {
        check(name, "ok", format!("the denied connection and {execs} started programs are on record"), "", "")
    });
    checks
}

impl Act {
    fn judge(&self, output: &str) -> Check {
        let name = format!("canary.{}", self.name);
        let mut lines = output.lines().map(|line| line.splitn(3, '|').collect::<Vec<_>>());
        let line = lines.find(|fields| fields.first() == Some(&self.name));
        let impact = "a session can do what it must not";
        let what = self.what;
        match line.as_deref() {
            Some([_, "127", _]) => {
                let found = format!("there is no program to {what} with");
                let impact = "it was not tried whether sessions hold in this";
                check(&name, "reduced", found, impact, "install bash and util-linux")
            }
            Some([_, "0", _]) => check(
                &name,
                "missing",
                format!("could {what}"),
                impact,
                "start no sessions on this host; report it",
            ),
            Some([_, _, said]) if self.errors.iter().any(|error| said.contains(error)) => {
                check(&name, "ok", format!("could not {what}"), "", "")
            }
            Some([_, code, said]) => {
                let found =
                    format!("could not {what}, but not for the reason that it should: exit {code}, {said}");
                check(&name, "missing", found, impact, "see why it failed; the daemon's log may say more")
            }
            _ => check(&name, "missing", "the session did not try it", impact, "see the session's events"),
        }
    }
}

/// An empty directory that goes with this.
struct Workspace(PathBuf);

impl Workspace {
    fn new() -> Result<Self, Failure> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Failure::failed(format!("getrandom: {errno}")))?;
        let path = std::env::temp_dir().join(format!("agentctl-canary-{:016x}", u64::from_ne_bytes(random)));
        let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(|errno| failed(&std::io::Error::from(errno)))?;
        let found = path.canonicalize().map_err(|error| failed(&error))?;
        Ok(Self(found))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The overlay is the session's: nothing was ever written here.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_proto::v1::NetDetail;

    const WELL: &str = "shadow|1|cat: /etc/shadow: No such file or directory\n\
        connect|1|bash: connect: Connection refused\nroot|1|unshare: unshare failed: Operation not permitted\n\
        usr|2|sh: 1: cannot create /usr/agentd-canary: Read-only file system\n\
        process|1|sh: 1: kill: No such process\n";

    fn events() -> Vec<Event> {
        let net = NetDetail { address: "192.0.2.1".into(), port: Some(80), ..NetDetail::default() };
        let event = |kind: &str| Event { kind: kind.into(), ..Event::default() };
        vec![event("process.exec"), Event { net: Some(net), ..event("net.denied") }]
    }

    fn statuses(output: &str, events: &[Event]) -> Vec<String> {
        judge(output, events).into_iter().map(|check| check.status).collect()
    }

    #[test]
    fn all_is_well() {
        assert_eq!(statuses(WELL, &events()), ["ok"; 6], "{:?}", judge(WELL, &events()));
    }

    #[test]
    fn what_was_possible_is_told() {
        let foul = WELL.replace("shadow|1|cat: /etc/shadow: No such file or directory", "shadow|0|root:x");
        assert_eq!(statuses(&foul, &events()), ["missing", "ok", "ok", "ok", "ok", "ok"]);
        let slow = WELL.replace("Connection refused", "Connection timed out");
        assert_eq!(statuses(&slow, &events())[1], "missing");
        let bare = WELL.replace("root|1|", "root|127|");
        assert_eq!(statuses(&bare, &events())[2], "reduced");
        assert_eq!(statuses("", &events()), ["missing", "missing", "missing", "missing", "missing", "ok"]);
        assert_eq!(statuses(WELL, &[])[5], "missing");
    }

    #[test]
    fn the_script_is_one_that_a_shell_reads() {
        let checked = std::process::Command::new("sh").args(["-n", "-c", SCRIPT]).status().unwrap();
        assert!(checked.success());
    }
}
