//! Carries a session's terminal, or its standard input, output and error, until its command has ended.

use std::pin::pin;
use std::time::{Duration, Instant};

use agentd_proto::v1::{
    AttachInput, AttachOpen, AttachOutput, Exit, KillRequest, attach_input, attach_output,
};
use prost::bytes::Bytes;
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connect::Client;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::pipes::{self, Stream, Written};
use crate::signals::{CONT, Signals, TSTP, WINCH};
use crate::terminal::{Raw, Streams, window};

/// Messages that wait for the daemon: with 64 KiB each, a pipe's worth and some.
const WAITING: usize = 4;
/// What a signal needs to be on its way before we stop.
const SENT: Duration = Duration::from_millis(20);
/// The same signal three times within this time means us.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// Attaches to the session `id` and stays until its end; then the terminal is as it was, and all output
/// written.
///
/// # Errors
/// If the daemon or one of our streams fails. The session ends with the connection.
pub async fn attach(
    client: &mut Client,
    id: &str,
    terminal: bool,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let streams = Streams::look();
    let io = |error: std::io::Error| Failure::failed(error.to_string());
    let (input, queue) = mpsc::channel(WAITING);
    let open = AttachOpen { id: id.to_owned() };
    send(&input, attach_input::Kind::Open(open)).await;
    let inbound = client.attach(ReceiverStream::new(queue)).await?.into_inner();
    let raw = if terminal && streams.stdin { Some(Raw::enter().map_err(io)?) } else { None };
    pipes::read_stdin(input.clone(), streams.stdin).map_err(io)?;
    let (output, mut written) = pipes::writer().map_err(io)?;
    let mut carried = pin!(carry(inbound, output, streams));
    let resizes = input.clone();
    let mut forward = Forward { client: client.clone(), id, input, raw, terminal, resize: false, last: None };
    let exit = loop {
        tokio::select! {
            exit = &mut carried => break exit?,
            result = &mut written => return Err(unwritten(result)),
            number = signals.next() => forward.signal(number).await?,
            Ok(permit) = resizes.reserve(), if forward.resize => {
                permit.send(AttachInput { kind: Some(attach_input::Kind::Resize(window())) });
                forward.resize = false;
            }
        }
    };
    // The command is gone: from here a signal is for us alone.
    tokio::select! {
        result = &mut written => match result {
            Ok(Ok(())) => Ok(exit),
            other => Err(unwritten(other)),
        },
        number = signals.next_ending() => Err(Failure::Quiet(128 + number)),
    }
}

async fn send(input: &mpsc::Sender<AttachInput>, kind: attach_input::Kind) {
    // A closed channel shows as the end of the answers.
    let _ = input.send(AttachInput { kind: Some(kind) }).await;
}

/// Hands the session's output on until its exit.
async fn carry(
    mut inbound: Streaming<AttachOutput>,
    output: mpsc::Sender<(Stream, Bytes)>,
    streams: Streams,
) -> Result<Exit, Failure> {
    let mut out = streams.stdout.then(Filter::new);
    let mut err = streams.stderr.then(Filter::new);
    while let Some(message) = inbound.message().await? {
        let (stream, filter, bytes) = match message.kind {
            Some(attach_output::Kind::Stdout(bytes)) => (Stream::Stdout, &mut out, bytes),
            Some(attach_output::Kind::Stderr(bytes)) => (Stream::Stderr, &mut err, bytes),
            Some(attach_output::Kind::Exit(exit)) => return Ok(exit),
            Some(attach_output::Kind::Attached(_)) | None => continue,
        };
        let bytes = match filter {
            Some(filter) => filter.pass(bytes),
            None => bytes,
        };
        if !bytes.is_empty() && output.send((stream, bytes)).await.is_err() {
            // The writer has failed and says itself why.
            std::future::pending::<()>().await;
        }
    }
    Err(Failure::failed("agentd ended the stream before the command's exit was known"))
}

fn unwritten(result: Result<Written, oneshot::error::RecvError>) -> Failure {
    match result {
        Ok(Err((stream, error))) => Failure::output(stream.name(), &error),
        Ok(Ok(())) | Err(_) => Failure::failed("standard output is not written any more"),
    }
}

/// Hands signals on to the command.
struct Forward<'a> {
    client: Client,
    id: &'a str,
    input: mpsc::Sender<AttachInput>,
    raw: Option<Raw>,
    terminal: bool,
    /// The terminal's new size is still to be sent.
    resize: bool,
    /// The last signal, the first time that it came, and how often since.
    last: Option<(i32, Instant, u32)>,
}

impl Forward<'_> {
    async fn signal(&mut self, number: i32) -> Result<(), Failure> {
        match number {
            WINCH => self.resize = self.terminal,
            TSTP => {
                self.send(number, 1);
                tokio::time::sleep(SENT).await;
                if let Some(raw) = &self.raw {
                    raw.pause();
                }
                // Only a debugger could make this fail; then we go on.
                let _ = kill_process(getpid(), Signal::STOP);
            }
            CONT => {
                if let Some(raw) = &self.raw {
                    let _ = raw.again();
                }
                self.resize = self.terminal;
                self.send(number, 1);
            }
            _ => {
                let times = self.count(number, Instant::now());
                if times > 2 {
                    return Err(Failure::Quiet(128 + number));
                }
                self.send(number, times);
            }
        }
        Ok(())
    }

    fn count(&mut self, number: i32, now: Instant) -> u32 {
        let (since, times) = match self.last {
            Some((last, since, times)) if last == number && now - since < IMPATIENCE => (since, times + 1),
            _ => (now, 1),
        };
        self.last = Some((number, since, times));
        times
    }

    /// Sends it in order with the input. If input is stuck before it, or if it comes again, it goes beside.
    fn send(&self, number: i32, times: u32) {
        let idle = self.input.capacity() == self.input.max_capacity();
        let message = AttachInput { kind: Some(attach_input::Kind::Signal(number)) };
        if idle && times == 1 && self.input.try_send(message).is_ok() {
            return;
        }
        let mut client = self.client.clone();
        let request = KillRequest { id: self.id.to_owned(), signal: Some(number) };
        tokio::spawn(async move { client.kill(request).await });
    }
}
