//! `ps`, `kill`, `rm` and `version`.

use agentd_proto::v1::{KillRequest, ListRequest, RemoveRequest, Session, VersionReply, VersionRequest};
use serde_json::json;

use crate::cli::{KillArgs, PsArgs, RmArgs, VersionArgs};
use crate::connect::{Socket, answer};
use crate::failure::Failure;
use crate::show::{clean, json, print, table};
use crate::terminal;

/// SIGKILL: the whole session ends, not only its command.
const KILL: i32 = 9;

/// `agentctl ps`.
///
/// # Errors
/// As the daemon says.
pub async fn ps(socket: &Socket, args: PsArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let sessions = answer(client.list(ListRequest { all: args.all })).await?.sessions;
    let mut out = String::new();
    if args.json {
        for session in &sessions {
            out.push_str(&json(session)?);
            out.push('\n');
        }
    } else {
        let rows: Vec<_> = sessions.iter().map(row).collect();
        let heading = ["ID", "NAME", "USER", "STATE", "PROFILE", "CREATED", "COMMAND"];
        out = table(heading, &rows, terminal::width());
    }
    print(&out)
}

fn row(session: &Session) -> [String; 7] {
    let Session { id, name, user, state, profile, command, created, exit } = session;
    let state = match exit {
        Some(exit) if !exit.reason.is_empty() => format!("{state} ({})", how(exit)),
        _ => state.clone(),
    };
    // To the second is enough for a person.
    let created = match created.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => created.clone(),
    };
    [id, name, user, &state, profile, &created, command].map(|cell| match clean(cell) {
        cell if cell.is_empty() => "-".to_owned(),
        cell => cell.into_owned(),
    })
}

fn how(exit: &agentd_proto::v1::Exit) -> String {
    match (exit.reason.as_str(), exit.code, exit.signal) {
        ("exited", Some(code), _) => code.to_string(),
        ("signaled", _, Some(signal)) => format!("signal {signal}"),
        (reason, ..) => reason.to_owned(),
    }
}

/// `agentctl kill`.
///
/// # Errors
/// As the daemon says.
pub async fn kill(socket: &Socket, args: KillArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let signal = args.signal.filter(|signal| *signal != KILL);
    let reply = answer(client.kill(KillRequest { id: args.id, signal })).await?;
    print_id(&reply.id, args.json)
}

/// `agentctl rm`.
///
/// # Errors
/// As the daemon says.
pub async fn rm(socket: &Socket, args: RmArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let reply = answer(client.remove(RemoveRequest { id: args.id, force: args.force })).await?;
    print_id(&reply.id, args.json)
}

fn print_id(id: &str, as_json: bool) -> Result<(), Failure> {
    let line = if as_json { json(&json!({ "id": id }))? } else { clean(id).into_owned() };
    print(&(line + "\n"))
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
        assert_eq!(row[5], "2026-01-02T03:04:05Z");
        assert_eq!(row[6], "sh -c \\u{1b}]0;x\\u{7}");
    }

    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let value: serde_json::Value = serde_json::from_str(&json(&session()).unwrap()).unwrap();
        for field in ["id", "name", "user", "state", "profile", "command", "created"] {
            assert!(value[field].is_string(), "{field}");
        }
    }
}
