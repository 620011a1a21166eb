//! Carries a terminal, or standard input, output and error, between the caller and a command. What outlives
//! a connection is kept here: how far the streams have come, the state of the terminal, what was typed last.

mod signals;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{AttachInput, AttachOutput, Attached, Exit};
use agentd_protocols::terminal::filter::Filter;
use prost::bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::connect::Client;
use crate::failure::{Failure, say};
use crate::keys::{Finder, Keys};
use crate::pipes::{self, Stream, Written};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::stream::{AttachStream, Target};
use crate::terminal::{Raw, Streams, window};
use agentd_policy::rule::Rule;

/// Chunks of standard input that wait to be sent.
const TYPED: usize = 2;
/// How long the daemon may take to let us go.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the terminal may take after a failure.
const UNDO: Duration = Duration::from_secs(1);
/// What ctrl-c types.
const INTERRUPT: u8 = 3;

/// Why the carrying came to an end.
#[derive(Debug)]
pub enum Step {
    /// The command has ended.
    Exit(Exit),
    /// The user asked for it.
    Detached,
    /// The connection broke.
    Lost(Failure),
}

/// Everything that is the same on every connection.
pub struct Carrier {
    client: Client,
    id: String,
    /// Whether signals may be sent to the session's command beside the stream.
    beside: bool,
    watch: bool,
    terminal: bool,
    progress: Progress,
    raw: Option<Raw>,
    /// Of standard input, where it is a terminal.
    keys: Option<Finder>,
    typed: mpsc::Receiver<Option<Bytes>>,
    /// Messages that are to be sent next.
    queue: VecDeque<In>,
    /// Standard input has ended.
    ended: bool,
    /// The user wants to leave once the queue is sent.
    leaving: bool,
    out: Option<Filter>,
    err: Option<Filter>,
    output: Option<mpsc::Sender<(Stream, Bytes)>>,
    /// Output that waits for room.
    held: Option<(Stream, Bytes)>,
    written: oneshot::Receiver<Written>,
    /// The last signal, the first time that it came, and how often since.
    last: Option<(i32, Instant, u32)>,
}

impl Carrier {
    /// For a connection that was just made: the terminal becomes raw.
    ///
    /// # Errors
    /// If the terminal refuses, or no thread can be started.
    pub fn new(
        client: Client,
        target: &Target,
        id: &str,
        attached: &Attached,
        keys: Keys,
    ) -> Result<Self, Failure> {
        let io = |error: std::io::Error| Failure::failed(error.to_string());
        let streams = Streams::look();
        let watch = matches!(target, Target::Session { watch: true, .. });
        let (output, written) = pipes::writer().map_err(io)?;
        let (to, typed) = mpsc::channel(TYPED);
        let raw = if attached.terminal && streams.stdin { Some(Raw::enter().map_err(io)?) } else { None };
        // Whoever only looks needs the terminal for the keys alone.
        if !watch || raw.is_some() {
            pipes::read_stdin(to, streams.stdin).map_err(io)?;
        }
        Ok(Self {
            client,
            id: id.to_owned(),
            beside: matches!(target, Target::Session { .. }),
            watch,
            terminal: attached.terminal,
            progress: Progress::new(attached),
            keys: raw.is_some().then(|| Finder::new(keys)),
            raw,
            typed,
            queue: VecDeque::new(),
            ended: false,
            leaving: false,
            out: streams.stdout.then(Filter::default),
            err: streams.stderr.then(Filter::default),
            output: Some(output),
            held: None,
            written,
            last: None,
        })
    }

    /// How much output came so far; `None` for one that only watches a terminal: its screen is enough.
    pub fn place(&self) -> Option<u64> {
        (!self.watch || !self.terminal).then(|| self.progress.output())
    }

    /// Gives the terminal back while there is no connection: ctrl-c means us then.
    pub fn pause(&mut self) {
        if let Some(raw) = &self.raw {
            raw.pause();
        }
    }

    /// Whether the command draws on our terminal.
    pub fn draws(&self) -> bool {
        self.terminal && self.out.is_some()
    }

    /// Goes on with a new connection; perhaps the screen is drawn anew.
    ///
    /// # Errors
    /// If input is lost, or the terminal refuses.
    pub fn resume(&mut self, client: Client, attached: &Attached, drawn: bool) -> Result<(), Failure> {
        let anew = drawn || self.place().is_none();
        let (lost, again) = self.progress.resume(attached).map_err(|e| Failure::failed(e.to_string()))?;
        self.client = client;
        if lost > 0 && !anew {
            say(&format!("{lost} bytes of output are not kept any more"));
        }
        if let Some(raw) = &self.raw {
            raw.again().map_err(|error| Failure::failed(error.to_string()))?;
            self.queue.push_back(In::Resize(window()));
        }
        // What still waited was taken note of as sent when it was put into the queue.
        self.queue.retain(|kind| !matches!(kind, In::Stdin(_) | In::StdinEof(_)));
        self.queue.extend(again.into_iter().map(In::Stdin));
        if self.ended && !self.watch {
            self.queue.push_back(In::StdinEof(true));
        }
        Ok(())
    }

    /// Carries until the end of the command or of the connection, or until the user detaches.
    ///
    /// # Errors
    /// If one of our streams fails, or the daemon refuses to go on.
    pub async fn carry(&mut self, mut stream: AttachStream, signals: &mut Signals) -> Result<Step, Failure> {
        let Some(output) = self.output.clone() else { return Err(Failure::failed("all is written")) };
        loop {
            if self.leaving && self.queue.is_empty() {
                return self.leave(stream).await;
            }
            tokio::select! {
                message = stream.inbound.message(), if self.held.is_none() => match message.map_err(Failure::from) {
                    Ok(Some(message)) => {
                        if let Some(exit) = self.received(message) {
                            return Ok(Step::Exit(exit));
                        }
                    }
                    Ok(None) => {
                        let what = "agentd ended the stream before the command's exit was known";
                        return Ok(Step::Lost(Failure::unreachable(what)));
                    }
                    Err(failure) if failure.is_unreachable() => return Ok(Step::Lost(failure)),
                    // We were stopped for long, and others did not wait.
                    Err(failure) if failure.is_by(Rule::AttachSlow) && !self.watch => return Ok(Step::Lost(failure)),
                    Err(failure) => return Err(failure),
                },
                Ok(permit) = output.reserve(), if self.held.is_some() => {
                    if let Some(held) = self.held.take() {
                        permit.send(held);
                    }
                }
                result = &mut self.written => return Err(unwritten(result)),
                number = signals.next() => self.signal(number, &stream).await?,
                Ok(permit) = stream.input.reserve(), if !self.queue.is_empty() => {
                    permit.send(AttachInput { kind: self.queue.pop_front() });
                }
                typed = self.typed.recv(), if self.queue.is_empty() && !self.ended => self.typed(typed.flatten()),
            }
        }
    }

    /// Takes a message up. The exit, if it is that.
    fn received(&mut self, message: AttachOutput) -> Option<Exit> {
        let (stream, bytes) = match message.kind {
            Some(Out::Stdout(bytes)) => (Stream::Stdout, self.progress.received(bytes)),
            Some(Out::Stderr(bytes)) => (Stream::Stderr, self.progress.received(bytes)),
            Some(Out::Screen(bytes)) => (Stream::Stdout, bytes),
            Some(Out::Exit(exit)) => return Some(exit),
            Some(Out::Attached(_)) | None => return None,
        };
        let filter = match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        };
        let bytes = match filter {
            Some(filter) => filter.pass(bytes),
            None => bytes,
        };
        self.held = (!bytes.is_empty()).then_some((stream, bytes));
        None
    }

    /// Takes what was typed up; `None` is its end.
    fn typed(&mut self, typed: Option<Bytes>) {
        let Some(mut bytes) = typed else {
            self.ended = true;
            if !self.watch {
                self.queue.push_back(In::StdinEof(true));
            }
            return;
        };
        if let Some(keys) = &mut self.keys {
            (bytes, self.leaving) = keys.pass(bytes);
        }
        if self.watch {
            self.leaving |= bytes.contains(&INTERRUPT);
        } else if !bytes.is_empty() {
            self.progress.sent(&bytes);
            self.queue.push_back(In::Stdin(bytes));
        }
    }

    /// Detaches: the session goes on without this client. Waits until the daemon has closed the stream.
    async fn leave(&mut self, mut stream: AttachStream) -> Result<Step, Failure> {
        // A further command ends with its stream.
        if self.watch || !self.beside {
            return Ok(Step::Detached);
        }
        let detached = async {
            let detach = AttachInput { kind: Some(In::Detach(true)) };
            stream
                .input
                .send(detach)
                .await
                .map_err(|_| Failure::failed("cannot detach: the stream is closed"))?;
            drop(stream.input);
            while let Some(message) = stream.inbound.message().await? {
                if let Some(Out::Exit(exit)) = message.kind {
                    return Ok(Step::Exit(exit));
                }
            }
            Ok(Step::Detached)
        };
        tokio::time::timeout(LEAVE, detached)
            .await
            .unwrap_or_else(|_| Err(Failure::unreachable("agentd did not answer to the wish to detach")))
    }

    /// Writes what is left, and gives the terminal back.
    ///
    /// # Errors
    /// If the output could not be written.
    pub async fn finish(mut self, signals: &mut Signals) -> Result<(), Failure> {
        let Some(output) = self.output.take() else { return Ok(()) };
        let last = self.held.take();
        let undo = self.undo();
        let written = &mut self.written;
        let write = async move {
            for piece in last.into_iter().chain(undo) {
                // The writer has failed and says itself why.
                output.send(piece).await.ok();
            }
            drop(output);
            match written.await {
                Ok(Ok(())) => Ok(()),
                other => Err(unwritten(other)),
            }
        };
        // The command is gone: from here a signal is for us alone.
        tokio::select! {
            result = write => result,
            number = signals.next_ending() => Err(Failure::Quiet(128 + number)),
        }
    }

    /// Gives the terminal back after a failure, as far as that can be done at once.
    pub async fn abandon(mut self) {
        let undo = self.undo();
        let Some(output) = self.output.take().filter(|_| !self.written.is_terminated()) else { return };
        let sent = undo.into_iter().filter(|piece| output.try_send(piece.clone()).is_ok()).count();
        drop(output);
        if sent > 0 {
            tokio::time::timeout(UNDO, &mut self.written).await.ok();
        }
    }

    /// What brings back what the command has changed in our terminals.
    fn undo(&mut self) -> Vec<(Stream, Bytes)> {
        let filters = [(Stream::Stdout, self.out.as_mut()), (Stream::Stderr, self.err.as_mut())];
        let undone = filters.into_iter().filter_map(|(stream, filter)| Some((stream, filter?.undo())));
        undone.filter(|(_, bytes)| !bytes.is_empty()).collect()
    }
}

fn unwritten(result: Result<Written, oneshot::error::RecvError>) -> Failure {
    match result {
        Ok(Err((stream, error))) => Failure::output(stream.name(), &error),
        Ok(Ok(())) | Err(_) => Failure::failed("standard output is not written any more"),
    }
}
