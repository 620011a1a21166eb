//! `agentctl run`: decides what the request comes to, offers the paths that it needs, has the session made, and
//! attaches.

use std::time::{Duration, Instant};

use agentd_policy::exit_reason::ExitReason;
use agentd_policy::git::Place;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_proto::v1::{CreateReply, CreateRequest, Event, EventsRequest, Exit, KillRequest};

use crate::ask::Question;
use crate::attach::{Ended, Outcome, attach};
use crate::breadth;
use crate::cli::RunArgs;
use crate::connect::{Client, Socket};
use crate::failure::{Failure, say};
use crate::find::Found;
use crate::habits;
use crate::review::{self, After};
use crate::show::{clean, clean_lines, json, print};
use crate::side::Begun;
use crate::signals::Signals;
use crate::spec::asked;
use crate::steps::Steps;
use crate::stream::Target;

/// How long a session that is being made may still take once we have been asked to end.
const GRACE: Duration = Duration::from_secs(3);
/// The exit code of a command that is not there.
const NOT_FOUND: i32 = 127;

/// Runs a command in a new session. Returns its exit code; with `--detach` 0 once it runs, and only then its id
/// is printed.
///
/// # Errors
/// If there is no session, or we lost it.
pub async fn run(socket: &Socket, args: RunArgs, started: Instant) -> Result<i32, Failure> {
    let mut steps = Steps::new(started);
    let (dry_run, as_json, timings, detach) = (args.dry_run, args.json, args.timings, args.detach);
    let (removes, quiet, name) = (args.rm, args.quiet, args.name.clone());
    let keys = args.detach_keys.clone().unwrap_or_default();
    habits::check(&args.command)?;
    let line = habits::line(&args.command);
    // Both ends of the daemon take connections up while this reads and decides. What is wrong with the question is said
    // before what is wrong with the daemon.
    let side = Begun::connect(socket);
    let client = if dry_run { None } else { Some(socket.connect().await) };
    steps.mark("connect");
    let asked = asked(args)?;
    steps.mark("read");
    let mut question = Question::new(side?, asked)?;
    steps.mark("decide");
    let reach = question.plan().egress.iter().flat_map(|egress| egress.rules());
    breadth::warnings(reach).iter().for_each(|line| say(line));
    question.git().notes.iter().for_each(|line| say(line));
    // What is about to be deleted is somebody's to look at, if there is somebody.
    let asks = removes && !detach && question.has_overlay() && review::can_ask();
    if asks {
        question.keep()?;
    }
    let after = if asks { After::Remove } else { After::Keep };
    let is_reviewed = question.has_overlay() && (asks || !removes);
    let Some(client) = client else {
        print_plan(&question, as_json)?;
        return Ok(0);
    };
    let client = client?;
    let mut signals = Signals::take_over()?;
    let created = make(&client, question, &mut signals, &mut steps).await?;
    if detach {
        let id = created.id.clone();
        let code = started_well(&client, &id).await?;
        steps.mark("started");
        steps.print(&created.timings, timings, as_json);
        if code != 0 {
            return Ok(code);
        }
        let line = if as_json { json(&serde_json::json!({ "id": id }))? } else { clean(&id).into_owned() };
        print(&(line + "\n"))?;
        return Ok(0);
    }
    let target = Target::Session { id: created.id.clone(), watch: false, whole: true };
    let outcome = attach(socket, client.clone(), target, keys, &mut signals).await;
    if let Ok(outcome) = &outcome {
        steps.mark_at("attach", outcome.attached);
        steps.mark("command");
    }
    steps.print(&created.timings, timings, as_json);
    let outcome = outcome?;
    let has_exited = matches!(outcome.ended, Ended::Exit(_));
    let code = code(&outcome);
    if let Some(hint) = line.filter(|_| code == NOT_FOUND) {
        say(&hint);
    }
    if is_reviewed && has_exited {
        let id = SessionId::parse(&created.id).map_err(|error| error.refusal(Rule::SessionId))?;
        let found = Found { label: name.unwrap_or(created.id), id, has_ended: true, mounts: Vec::new() };
        let (socket, client) = (socket.clone(), client.clone());
        review::unless_interrupted(&mut signals, async move {
            review::ended(&socket, &client, &found, after, quiet).await
        })
        .await;
    }
    Ok(code)
}

/// The exit code of an attachment; says what does not speak for itself.
pub fn code(outcome: &Outcome) -> i32 {
    let (code, line) = match &outcome.ended {
        Ended::Exit(exit) => ending(exit),
        Ended::Detached if outcome.further => {
            (0, Some(format!("detached from {}, and ended the command", outcome.id)))
        }
        Ended::Detached => (0, Some(format!("detached from {}", outcome.id))),
    };
    if let Some(line) = line {
        say(&line);
    }
    code
}

/// Has a session made: opens and offers what it needs, and asks for it.
///
/// # Errors
/// If it is refused, or a signal ends us.
pub async fn make(
    client: &Client,
    question: Question,
    signals: &mut Signals,
    steps: &mut Steps,
) -> Result<CreateReply, Failure> {
    let (request, held) = question.offer()?;
    steps.mark("offer");
    let created = create(client, request, signals).await?;
    steps.mark("create");
    drop(held);
    Ok(created)
}

/// Waits until the command of a detached session runs. Its exit code if it could not be run.
async fn started_well(client: &Client, id: &str) -> Result<i32, Failure> {
    let mut client = client.clone();
    let kinds = ["session.started", "session.ended"].map(str::to_owned).to_vec();
    let request = EventsRequest { id: id.to_owned(), follow: true, kinds, ..EventsRequest::default() };
    let first = async { client.events(request).await?.into_inner().message().await };
    match tokio::time::timeout(GRACE, first).await {
        Ok(Ok(Some(Event { kind, lifecycle: Some(end), .. }))) if kind == "session.ended" => {
            let reason = end.reason.unwrap_or_default();
            let message = end.message.unwrap_or_default();
            let (code, line) = ending(&Exit { reason, code: end.code, signal: end.signal, message });
            if let Some(line) = line {
                say(&line);
            }
            Ok(code)
        }
        // It has been made, whatever became of the question: with --rm it may be forgotten already.
        _ => Ok(0),
    }
}

/// Has the session made. A signal meanwhile ends it, not only us.
async fn create(
    client: &Client,
    request: CreateRequest,
    signals: &mut Signals,
) -> Result<CreateReply, Failure> {
    let mut creator = client.clone();
    let mut creating = std::pin::pin!(creator.create(request));
    let number = tokio::select! {
        reply = &mut creating => return Ok(reply?.into_inner()),
        number = signals.next_ending() => number,
    };
    let clean_up = async {
        if let Ok(reply) = creating.await {
            let id = reply.into_inner().id;
            client.clone().kill(KillRequest { id, signal: None }).await.ok();
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(GRACE, clean_up) => {}
        _ = signals.next_ending() => {}
    }
    Err(Failure::Quiet(128 + number))
}

/// The exit code, and a line if it does not speak for itself.
fn ending(exit: &Exit) -> (i32, Option<String>) {
    let message = Some(exit.message.clone()).filter(|message| !message.is_empty());
    let or = |text: &str| message.clone().or_else(|| Some(text.to_owned()));
    match (ExitReason::parse(&exit.reason), exit.code, exit.signal) {
        (Some(ExitReason::Exited), Some(code), _) => (code, message),
        (Some(ExitReason::Signaled), _, Some(signal)) => (128 + signal, message),
        (Some(ExitReason::Timeout), ..) => (124, or("timed out (--timeout)")),
        (Some(ExitReason::OutOfMemory), ..) => (137, or("killed: over its limit of memory (--memory)")),
        (Some(ExitReason::Killed), ..) => (137, message),
        (Some(ExitReason::Failed), ..) => (125, or("the session failed")),
        _ => (125, or(&format!("the session ended in a way that is not known: {:?}", exit.reason))),
    }
}

/// The plan for a person to read: texts instead of bytes, and no identity yet.
fn print_plan(question: &Question, as_json: bool) -> Result<(), Failure> {
    let plan = question.plan();
    let text = agentd_policy::text::from_bytes;
    let value = serde_json::json!({
        "user": plan.user,
        "home": plan.home,
        "shell": plan.shell,
        "command": plan.command.iter().map(|word| text(word)).collect::<Vec<_>>(),
        "env": plan.env.iter().map(|(k, v)| (text(k), text(v))).collect::<std::collections::BTreeMap<_, _>>(),
        "cwd": plan.cwd,
        "terminal": plan.terminal,
        "workspaces": plan.workspaces,
        "inputs": plan.inputs,
        "scratch": plan.scratch,
        "git": question.git().reasons().map(reason).collect::<Vec<_>>(),
        "home_size": plan.home_size,
        "limits": plan.limits,
        "landlock_abi": plan.landlock_abi,
        "network": plan.egress.as_ref().filter(|egress| !egress.is_closed() || !egress.publish.is_empty()),
    });
    if as_json {
        return print(&(json(&value)? + "\n"));
    }
    let pretty = serde_json::to_string_pretty(&value)
        .map_err(|error| Failure::failed(format!("the plan as JSON: {error}")))?;
    print(&format!("{}\n", clean_lines(&pretty)))
}

/// A path of a repository, and why the session gets it.
fn reason((place, why): (Place, &str)) -> serde_json::Value {
    let (part, mode) = place.used.words();
    serde_json::json!({ "path": place.path, "part": part, "mode": mode, "why": why })
}

#[cfg(test)]
mod tests {
    use super::*;

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
