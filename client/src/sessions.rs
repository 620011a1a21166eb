//! `ps`, `stop`, `kill`, `rm`, `allow`, `deny` and `version`.

use std::time::Duration;

use agentd_policy::exit_reason::ExitReason;
use agentd_policy::network::Change;
use agentd_policy::offer::Steer;
use agentd_policy::size::readable_size;
use agentd_proto::v1::{
    Changes, KillRequest, ListRequest, RemoveRequest, Session, StopRequest, VersionReply, VersionRequest,
};
use serde_json::json;

use crate::cli::{AllowArgs, DenyArgs, KillArgs, PsArgs, RmArgs, StopArgs, VersionArgs};
use crate::connect::{Client, Socket, answer, answer_within};
use crate::failure::Failure;
use crate::find::find;
use crate::review;
use crate::several::{All, print_id};
use crate::show::{clean, json, print, table};
use crate::side::Side;
use crate::terminal;

/// SIGKILL: the whole session ends, not only its command.
const KILL: i32 = 9;
/// What the daemon waits for if nobody says how long.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What it needs besides.
const STOP_REST: Duration = Duration::from_secs(60);

/// `agentctl ps`.
///
/// # Errors
/// As the daemon says.
pub async fn ps(socket: &Socket, args: PsArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let sessions = answer(client.list(ListRequest { all: args.all })).await?.sessions;
    let mut out = String::new();
    if args.json || args.quiet {
        for session in &sessions {
            if args.json {
                out.push_str(&json(session)?);
            } else {
                out.push_str(&clean(&session.id));
            }
            out.push('\n');
        }
    } else {
        let rows: Vec<_> = sessions.iter().map(row).collect();
        let heading =
            ["ID", "NAME", "USER", "STATE", "CHANGES", "ATTACHED", "PROFILE", "PORTS", "CREATED", "COMMAND"];
        out = table(heading, &rows, terminal::width());
    }
    print(&out)
}

fn row(session: &Session) -> [String; 10] {
    let Session { id, name, user, profile, command, created, .. } = session;
    let (state, attached, ports) = (state(session), attached(session), session.publish.join(","));
    // To the second is enough for a person.
    let created = match created.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => created.clone(),
    };
    let changes = changes(session.changes.as_ref());
    [id, name, user, &state, &changes, &attached, profile, &ports, &created, command].map(|cell| match clean(
        cell,
    ) {
        cell if cell.is_empty() => "-".to_owned(),
        cell => cell.into_owned(),
    })
}

/// What its user last saw of its changes: `3 files, 12 KiB`, or where they went.
fn changes(changes: Option<&Changes>) -> String {
    let Some(Changes { files, bytes, state }) = changes else { return String::new() };
    let there =
        || format!("{files} {}, {}", if *files == 1 { "file" } else { "files" }, readable_size(*bytes));
    match state.as_str() {
        "none" => "none".to_owned(),
        "unapplied" => there(),
        "partly" => format!("{} left", there()),
        // From the service: it is escaped with the row.
        state => state.to_owned(),
    }
}

/// The state, and how it came to its end; not yet escaped.
pub fn state(session: &Session) -> String {
    match &session.exit {
        Some(exit) if !exit.reason.is_empty() => format!("{} ({})", session.state, how(exit)),
        _ => session.state.clone(),
    }
}

/// Who is attached; empty once that does not matter any more.
pub fn attached(session: &Session) -> String {
    match session {
        Session { state, .. } if state == "ended" => String::new(),
        Session { attached: 0, detached: true, .. } => "detached".to_owned(),
        Session { attached, .. } => attached.to_string(),
    }
}

fn how(exit: &agentd_proto::v1::Exit) -> String {
    match (ExitReason::parse(&exit.reason), exit.code, exit.signal) {
        (Some(ExitReason::Exited), Some(code), _) => code.to_string(),
        (Some(ExitReason::Signaled), _, Some(signal)) => format!("signal {signal}"),
        _ => exit.reason.clone(),
    }
}

/// `agentctl stop`.
///
/// # Errors
/// As the daemon says.
pub async fn stop(socket: &Socket, args: StopArgs) -> Result<(), Failure> {
    let client = socket.connect().await?;
    let grace = args.time.map_or(STOP_GRACE, Duration::from_millis);
    // All at once: each may take its whole grace.
    let stopping: Vec<_> = args
        .ids
        .into_iter()
        .map(|id| {
            let mut client = client.clone();
            let request = StopRequest { id, grace_ms: args.time };
            tokio::spawn(async move { answer_within(grace + STOP_REST, client.stop(request)).await })
        })
        .collect();
    let mut all = All::default();
    for one in stopping {
        let stopped = one.await.unwrap_or_else(|error| Err(Failure::failed(error.to_string())));
        all.take(stopped.map(|reply| reply.id), args.json)?;
    }
    all.done()
}

/// `agentctl kill`.
///
/// # Errors
/// As the daemon says.
pub async fn kill(socket: &Socket, args: KillArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let signal = args.signal.filter(|signal| *signal != KILL);
    let mut all = All::default();
    for id in args.ids {
        let killed = answer(client.kill(KillRequest { id, signal })).await;
        all.take(killed.map(|reply| reply.id), args.json)?;
    }
    all.done()
}

/// `agentctl rm`.
///
/// # Errors
/// As the daemon says.
pub async fn rm(socket: &Socket, args: RmArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let mut all = All::default();
    for id in args.ids {
        all.take(remove(&mut client, &id, args.force).await, args.json)?;
    }
    all.done()
}

async fn remove(client: &mut Client, id: &str, force: bool) -> Result<String, Failure> {
    // What is kept for `apply --undo` goes by the id that was meant, not by the one that the service answers with.
    let found = find(client, id).await?;
    let id = found.id.to_string();
    answer(client.remove(RemoveRequest { id: id.clone(), force })).await?;
    review::forget(&found.id);
    Ok(id)
}

/// `agentctl allow`.
///
/// # Errors
/// As the daemon says.
pub async fn allow(socket: &Socket, args: AllowArgs) -> Result<(), Failure> {
    steer(socket, args.id, Change::parse(&args.rules, &[])?, args.json).await
}

/// `agentctl deny`.
///
/// # Errors
/// As the daemon says.
pub async fn deny(socket: &Socket, args: DenyArgs) -> Result<(), Failure> {
    steer(socket, args.id, Change::parse(&[], &args.hosts)?, args.json).await
}

/// Who may change it, and how far, is the launcher's to judge.
async fn steer(socket: &Socket, id: String, change: Change, as_json: bool) -> Result<(), Failure> {
    let found = find(&socket.connect().await?, &id).await?;
    let session = found.id.clone();
    Side::connect(socket)?.steer(Steer { session, change: Box::new(change) })?;
    print_id(found.id.as_str(), as_json)
}

/// `agentctl version`. The client's own is said even if no daemon answers.
///
/// # Errors
/// If no daemon answers.
pub async fn version(socket: &Socket, args: VersionArgs) -> Result<(), Failure> {
    let client = env!("CARGO_PKG_VERSION");
    let asked = ask_version(socket).await;
    let text = match (&asked, args.json) {
        (Ok(VersionReply { version, api, kernel }), true) => {
            json(&json!({ "client": client, "version": version, "api": api, "kernel": kernel }))? + "\n"
        }
        (Err(_), true) => json(&json!({ "client": client }))? + "\n",
        (Ok(VersionReply { version, api, kernel }), false) => format!(
            "agentctl {client}\nagentd   {} ({})\nkernel   {}\n",
            clean(version),
            clean(api),
            clean(kernel)
        ),
        (Err(_), false) => format!("agentctl {client}\n"),
    };
    print(&text)?;
    asked.map(drop)
}

async fn ask_version(socket: &Socket) -> Result<VersionReply, Failure> {
    let mut client = socket.connect().await?;
    answer(client.version(VersionRequest {})).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_proto::v1::Exit;

    fn session() -> Session {
        Session {
            id: "0123456789ab".into(),
            user: "alice".into(),
            state: "ended".into(),
            profile: "default".into(),
            command: "sh -c \x1b]0;x\x07".into(),
            created: "2026-01-02T03:04:05.678901Z".into(),
            exit: Some(Exit { reason: "signaled".into(), signal: Some(15), ..Exit::default() }),
            ..Session::default()
        }
    }

    #[test]
    fn a_row_is_for_a_person() {
        let row = row(&session());
        assert_eq!(row[1], "-");
        assert_eq!(row[3], "ended (signal 15)");
        assert_eq!((row[4].as_str(), row[5].as_str()), ("-", "-"));
        assert_eq!(row[7], "-");
        assert_eq!(row[8], "2026-01-02T03:04:05Z");
        assert_eq!(row[9], "sh -c \\u{1b}]0;x\\u{7}");
    }

    #[test]
    fn who_is_attached() {
        let running = Session { state: "running".into(), ..Session::default() };
        assert_eq!(attached(&running), "0");
        assert_eq!(attached(&Session { attached: 2, detached: true, ..running.clone() }), "2");
        assert_eq!(attached(&Session { detached: true, ..running }), "detached");
    }

    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let value: serde_json::Value = serde_json::from_str(&json(&session()).unwrap()).unwrap();
        for field in ["id", "name", "user", "state", "profile", "command", "created"] {
            assert!(value[field].is_string(), "{field}");
        }
    }
}
