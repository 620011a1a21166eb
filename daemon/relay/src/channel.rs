//! One command: its streams on one side, on the other the service's stream for it, which may be lost and come
//! again.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_policy::wire::{CommandNumber, CommandStreams, frame};
use agentd_protocols::terminal::screen::Screen;
use tokio::io::unix::AsyncFdReadyGuard;
use tokio::sync::mpsc::Receiver;

use crate::control::Control;
use crate::inputs::{Frames, Inputs, Request, Sink};
use crate::outputs::{Outputs, Sender, Source};
use crate::{Endpoint, RelayError, endpoint};

/// The most screens that wait for their place in the output. With as many, the service's stream is not read.
const MAX_SCREENS: usize = 4;

/// The keeper's order to a channel.
pub enum Order {
    /// Take this stream to the service in the place of the one before.
    Connect(OwnedFd),
    /// End: the output is of no use any more.
    Close,
    /// The session is over: end once everything is delivered.
    Over,
    /// The keeper is gone: end once what is there is sent.
    Drain,
}

/// The service's stream.
struct Stream {
    fd: Endpoint,
    frames: Frames,
    sender: Sender,
    /// Where to go on is known.
    begun: bool,
}

impl Stream {
    fn new(fd: OwnedFd, later: bool) -> Result<Self, RelayError> {
        let (frames, sender) = (Frames::new(later), Sender::default());
        Ok(Self { fd: endpoint(fd)?, frames, sender, begun: !later })
    }
}

/// A command that is carried.
pub struct Channel {
    number: CommandNumber,
    inputs: Inputs,
    outputs: Outputs,
    stream: Option<Stream>,
    /// The service has everything.
    delivered: bool,
    /// Nothing more need be carried than what is there.
    over: bool,
    draining: bool,
    orders: Receiver<Order>,
    control: Arc<Control>,
}

/// What is ready.
enum Ready<'a> {
    Order(Option<Order>),
    FromService(io::Result<AsyncFdReadyGuard<'a, OwnedFd>>),
    ToService(io::Result<AsyncFdReadyGuard<'a, OwnedFd>>),
    Output(usize, io::Result<AsyncFdReadyGuard<'a, OwnedFd>>),
    Input(io::Result<AsyncFdReadyGuard<'a, OwnedFd>>),
}

impl Channel {
    /// A command with the first stream to the service.
    pub fn new(
        number: CommandNumber,
        streams: CommandStreams<OwnedFd>,
        service: OwnedFd,
        orders: Receiver<Order>,
        control: Arc<Control>,
    ) -> Result<Self, RelayError> {
        let (sink, out, err, screen) = match streams {
            CommandStreams::Pipes([stdin, stdout, stderr]) => {
                (Sink::Pipe(endpoint(stdin)?), endpoint(stdout)?, Some(endpoint(stderr)?), None)
            }
            CommandStreams::Terminal(master) => {
                let master = endpoint(master)?;
                let size = rustix::termios::tcgetwinsize(&*master).map(|size| (size.ws_row, size.ws_col));
                let (rows, columns) = size.unwrap_or((24, 80));
                (Sink::Terminal(master.clone()), master, None, Some(Screen::new(rows, columns)))
            }
        };
        let sources = [Source::new(frame::STDOUT, Some(out)), Source::new(frame::STDERR, err)];
        Ok(Self {
            number,
            inputs: Inputs::new(sink),
            outputs: Outputs { sources, backlog: Default::default(), screen },
            stream: Some(Stream::new(service, false)?),
            delivered: false,
            over: false,
            draining: false,
            orders,
            control,
        })
    }

    /// Carries until everything is delivered, or is of no use. The command's number.
    pub async fn carry(mut self) -> Result<CommandNumber, RelayError> {
        while !self.is_done() {
            // A command may be ready for ever: the others must have their turn.
            tokio::task::coop::consume_budget().await;
            self.step().await?;
        }
        Ok(self.number)
    }

    /// The first command's input is carried until the session is over, whatever became of its output.
    fn is_done(&self) -> bool {
        match &self.stream {
            None if self.draining => true,
            Some(stream) if self.draining && stream.sender.has_drained() => true,
            _ => self.delivered && (self.over || self.number != 0),
        }
    }

    async fn step(&mut self) -> Result<(), RelayError> {
        let (mut from, mut to) = (None, None);
        if let Some(Stream { fd, frames, sender, begun }) = &mut self.stream {
            let reads = self.inputs.has_room_for(frames) && sender.screens() < MAX_SCREENS;
            from = reads.then(|| fd.clone());
            to = (*begun && sender.prepare(&self.outputs, self.inputs.taken())).then(|| fd.clone());
        }
        let room = self.outputs.backlog.has_room();
        let [out, err] = [0, 1].map(|which| self.outputs.sources[which].fd.clone().filter(|_| room));
        let input = self.inputs.waiting().cloned();
        let ready = tokio::select! {
            order = self.orders.recv() => Ready::Order(order),
            ready = readable(from.as_ref()) => Ready::FromService(ready),
            ready = writable(to.as_ref()) => Ready::ToService(ready),
            ready = readable(out.as_ref()) => Ready::Output(0, ready),
            ready = readable(err.as_ref()) => Ready::Output(1, ready),
            ready = writable(input.as_ref()) => Ready::Input(ready),
        };
        match ready {
            Ready::Order(order) => self.handle(order),
            Ready::FromService(ready) => match self.receive(ready) {
                Err(error) => self.lose(&error),
                Ok(()) => Ok(()),
            },
            Ready::ToService(ready) => match self.send(ready) {
                Err(error) => self.lose(&error),
                Ok(()) => Ok(()),
            },
            Ready::Output(which, ready) => {
                let io = |source| RelayError::Io { what: "read the command's output", source };
                if let Ok(read) = ready.map_err(io)?.try_io(|fd| self.outputs.read(which, fd)) {
                    read.map_err(io)?;
                    if let Some(screen) = &mut self.outputs.screen {
                        self.inputs.answer(&screen.answers());
                    }
                    self.control.active();
                }
                Ok(())
            }
            Ready::Input(ready) => {
                let io = |source| RelayError::Io { what: "write the command's input", source };
                if let Ok(written) = ready.map_err(io)?.try_io(|fd| self.inputs.write(fd)) {
                    self.inputs.written(written)?;
                }
                Ok(())
            }
        }
    }

    fn handle(&mut self, order: Option<Order>) -> Result<(), RelayError> {
        match order {
            Some(Order::Connect(fd)) => {
                self.inputs.lose();
                self.stream = Some(Stream::new(fd, true)?);
            }
            Some(Order::Close) => (self.delivered, self.over) = (true, true),
            Some(Order::Over) => self.over = true,
            Some(Order::Drain) | None => (self.over, self.draining) = (true, true),
        }
        Ok(())
    }

    /// The stream is of no use any more. A service that is there asks for another.
    fn lose(&mut self, error: &RelayError) -> Result<(), RelayError> {
        self.stream = None;
        self.inputs.lose();
        if matches!(error, RelayError::Malformed(_)) {
            // Where standard error goes is not ours to hint.
            writeln!(io::stderr(), "agentd-relay: {error}").ok();
        }
        Ok(())
    }

    fn send(&mut self, ready: io::Result<AsyncFdReadyGuard<'_, OwnedFd>>) -> Result<(), RelayError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut ready = ready.map_err(service_gone)?;
        match ready.try_io(|fd| stream.sender.write(&self.outputs, fd)) {
            Ok(written) => written.map_err(service_gone),
            Err(_would_block) => Ok(()),
        }
    }

    fn receive(&mut self, ready: io::Result<AsyncFdReadyGuard<'_, OwnedFd>>) -> Result<(), RelayError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut ready = ready.map_err(service_gone)?;
        let Ok(read) = ready.try_io(|fd| self.inputs.read(&mut stream.frames, fd)) else { return Ok(()) };
        if read.map_err(service_gone)? == 0 {
            return Err(RelayError::ServiceGone);
        }
        let header = stream.frames.header();
        match self.inputs.take_request(&mut stream.frames)? {
            None => self.control.active(),
            Some(Request::Resize(rows, columns)) => {
                self.inputs.sink().resize(rows, columns);
                if let Some(screen) = &mut self.outputs.screen {
                    screen.resize(rows, columns);
                }
            }
            Some(Request::Screen) => stream.sender.show(&mut self.outputs),
            Some(Request::Resume(offset)) => {
                let backlog = &self.outputs.backlog;
                if offset < backlog.base() || offset > backlog.end() {
                    return Err(RelayError::Malformed(header));
                }
                stream.sender.resume(offset, self.inputs.taken());
                stream.begun = true;
            }
            Some(Request::Ack(offset)) => {
                if offset > stream.sender.sent() {
                    return Err(RelayError::Malformed(header));
                }
                self.outputs.backlog.acknowledged(offset);
                self.delivered = stream.sender.has_drained() && offset == self.outputs.backlog.end();
            }
        }
        Ok(())
    }
}

async fn readable(fd: Option<&Endpoint>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match fd {
        Some(fd) => fd.readable().await,
        None => std::future::pending().await,
    }
}

async fn writable(fd: Option<&Endpoint>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match fd {
        Some(fd) => fd.writable().await,
        None => std::future::pending().await,
    }
}

/// What a failed read or write of the service's stream means.
fn service_gone(_: io::Error) -> RelayError {
    RelayError::ServiceGone
}
