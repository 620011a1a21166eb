//! Attaches to a session, or to one more command in it, and stays until that has ended or the user detaches:
//! over a connection that breaks, too.

use std::cell::Cell;
use std::time::{Duration, Instant};

use agentd_policy::rule::Rule;
use agentd_proto::v1::{ExecOpen, Exit};

use crate::carry::{Carrier, Step};
use crate::connect::{Client, Socket};
use crate::failure::{Failure, say};
use crate::keys::Keys;
use crate::signals::Signals;
use crate::stream::{AttachStream, Target, open};

/// How long a lost connection is tried to be made again.
const ATTACH_RETRY_WINDOW: Duration = Duration::from_secs(30);
/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// How long it is tried before that is said on a terminal.
const QUIET: Duration = Duration::from_secs(1);
/// A connection that held for so long was a good one: the next loss has the whole patience again.
const GOOD: Duration = Duration::from_secs(5);

/// Whether a later try may succeed: the daemon has found the session again, but not all of it, or its socket is made
/// anew, which is its group's a moment later only.
fn is_not_yet(failure: &Failure) -> bool {
    failure.is_unreachable()
        || [Rule::SessionStreams, Rule::SocketPermission].iter().any(|rule| failure.is_by(*rule))
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The command has ended.
    Exit(Exit),
    /// The user has left it.
    Detached,
}

/// What became of an attachment.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// The session's whole id.
    pub id: String,
    /// When the first connection was made.
    pub attached: Instant,
    /// Whether it was a further command of the session, which does not outlive its stream.
    pub further: bool,
}

/// Attaches and stays until the end; then the terminal is as it was, and all output written.
///
/// # Errors
/// If the daemon or one of our streams fails for good.
pub async fn attach(
    socket: &Socket,
    client: Client,
    target: Target,
    keys: Keys,
    signals: &mut Signals,
) -> Result<Outcome, Failure> {
    let (stream, first) = unless_ended(signals, open(&client, &target, None)).await?;
    let attached = Instant::now();
    let id = match &target {
        _ if !first.id.is_empty() => first.id.clone(),
        Target::Session { id, .. } | Target::Command(ExecOpen { id, .. }) => id.clone(),
    };
    let mut carrier = Carrier::new(client, &target, &id, &first, keys)?;
    let ended = match stay(socket, &target, &id, stream, &mut carrier, signals).await {
        Ok(ended) => ended,
        Err(failure) => {
            carrier.abandon().await;
            return Err(failure);
        }
    };
    carrier.finish(signals).await?;
    Ok(Outcome { ended, id, attached, further: matches!(target, Target::Command(_)) })
}

/// Carries over one connection after the other.
async fn stay(
    socket: &Socket,
    target: &Target,
    id: &str,
    mut stream: AttachStream,
    carrier: &mut Carrier,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let (mut since, mut lost_at) = (Instant::now(), None);
    loop {
        let failure = match carrier.carry(stream, signals).await? {
            Step::Exit(exit) => return Ok(Ended::Exit(exit)),
            Step::Detached => return Ok(Ended::Detached),
            Step::Lost(failure) => failure,
        };
        // A further command has ended with its connection.
        if matches!(target, Target::Command(_)) {
            return Err(failure);
        }
        let now = Instant::now();
        if now - since > GOOD {
            lost_at = None;
        }
        let until = *lost_at.get_or_insert(now) + ATTACH_RETRY_WINDOW;
        stream = again(socket, target, id, carrier, signals, until).await?;
        since = Instant::now();
    }
}

/// Makes a lost connection again.
async fn again(
    socket: &Socket,
    target: &Target,
    id: &str,
    carrier: &mut Carrier,
    signals: &mut Signals,
    until: Instant,
) -> Result<AttachStream, Failure> {
    carrier.pause();
    // On a terminal it would stand in the middle of what the command has drawn: if the stream is printed, all is drawn
    // anew. Mostly the daemon is there again at once.
    let (draws, printed) = (carrier.draws(), Cell::new(false));
    let notice = async {
        if draws {
            tokio::time::sleep(QUIET).await;
        }
        printed.set(true);
        say("connection lost; attaching again…");
        std::future::pending().await
    };
    let watch = matches!(target, Target::Session { watch: true, .. });
    let target = Target::Session { id: id.to_owned(), watch, whole: false };
    let mut had = carrier.place();
    let trying = async {
        loop {
            let tried = match socket.connect().await {
                Ok(client) => match open(&client, &target, had).await {
                    // The answer may have taken long.
                    Ok(_) if draws && printed.get() => open(&client, &target, None).await,
                    opened => opened,
                }
                .map(|stream| (client, stream)),
                Err(failure) => Err(failure),
            };
            match tried {
                // What came after that is not kept any more: then what is.
                Err(failure) if failure.is_by(Rule::AttachGone) && had.is_some() => had = None,
                Err(failure) if is_not_yet(&failure) => tokio::time::sleep(PAUSE).await,
                other => return other,
            }
        }
    };
    let within = unless_ended(signals, async {
        let failed = || {
            Failure::unreachable(format!(
                "agentd could not be reached for {} s",
                ATTACH_RETRY_WINDOW.as_secs()
            ))
        };
        tokio::select! {
            biased;
            () = notice => Err(failed()),
            tried = tokio::time::timeout_at(until.into(), trying) => tried.unwrap_or_else(|_| Err(failed())),
        }
    });
    let (client, (stream, attached)) = within.await?;
    carrier.resume(client, &attached, draws && printed.get())?;
    Ok(stream)
}

async fn unless_ended<T>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        number = signals.next_ending() => Err(Failure::Quiet(128 + number)),
    }
}
