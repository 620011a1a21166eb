//! `attach` and `exec`.

use std::path::Path;

use agentd_proto::v1::ExecOpen;

use crate::attach::{self, Ended};
use crate::cli::{AttachArgs, ExecArgs};
use crate::connect::Socket;
use crate::failure::Failure;
use crate::habits;
use crate::offer::utf8;
use crate::review;
use crate::run::code;
use crate::signals::Signals;
use crate::spec::{bytes, env_flag};
use crate::stream::Target;
use crate::terminal::{Streams, window};
use agentd_policy::rule::Rule;

/// Attaches to a session. Returns the exit code of its command.
///
/// # Errors
/// If there is no such session, or we lost it.
pub async fn attach(socket: &Socket, args: AttachArgs) -> Result<i32, Failure> {
    let target = Target::Session { id: args.id, watch: args.watch, whole: false };
    let client = socket.connect().await?;
    let mut signals = Signals::take_over()?;
    let keys = args.detach_keys.unwrap_or_default();
    let outcome = attach::attach(socket, client.clone(), target, keys, &mut signals).await?;
    let code = code(&outcome);
    if matches!(outcome.ended, Ended::Exit(_)) {
        let socket = socket.clone();
        review::unless_interrupted(&mut signals, async move {
            review::attached_ended(&socket, &client, &outcome.id, args.quiet).await
        })
        .await;
    }
    Ok(code)
}

/// Runs one more command in a session. Returns its exit code.
///
/// # Errors
/// If there is no such session, or we lost it.
pub async fn exec(socket: &Socket, args: ExecArgs) -> Result<i32, Failure> {
    let keys = args.detach_keys.clone().unwrap_or_default();
    let open = open(args)?;
    let client = socket.connect().await?;
    let mut signals = Signals::take_over()?;
    Ok(code(&attach::attach(socket, client, Target::Command(open), keys, &mut signals).await?))
}

fn open(args: ExecArgs) -> Result<ExecOpen, Failure> {
    habits::check(&args.command)?;
    let streams = Streams::look();
    let terminal = args.tty || (!args.no_tty && streams.stdin && streams.stdout);
    // The path is one of the session's; nothing here knows it.
    let cwd = match &args.cwd {
        Some(dir) if !Path::new(dir).is_absolute() => {
            let hint = "write an absolute path of the session's";
            return Err(Failure::refused(format!("directory {}", dir.display()), Rule::CwdAbsolute, hint));
        }
        Some(dir) => utf8(Path::new(dir))?,
        None => String::new(),
    };
    Ok(ExecOpen {
        id: args.id,
        command: args.command.into_iter().map(bytes).collect(),
        env: args.env.into_iter().map(env_flag).filter_map(Result::transpose).collect::<Result<_, _>>()?,
        cwd,
        terminal,
        window: terminal.then(window),
    })
}
