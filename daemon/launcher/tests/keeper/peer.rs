//! A service, as a keeper and a relay see it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::egress::Egress;
use agentd_policy::event::{EventBody, ExitStatus};
use agentd_policy::mode::Mode;
use agentd_policy::names::SessionId;
use agentd_policy::plan::{Plan, WindowSize};
use agentd_policy::step::CommandStep;
use agentd_policy::wire::{
    Command, FromKeeper, FromLauncher, MAX_KEEPER_PACKET, ToKeeper, decode, encode, frame,
};
use rustix::net::SocketType;

use crate::rig::{self, Rig, Service};

const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to a keeper.
pub struct Peer {
    packets: Packets,
    /// The last event's number.
    pub last: Cell<u64>,
    /// What came before it was asked for.
    aside: RefCell<VecDeque<(FromKeeper, Vec<OwnedFd>)>>,
}

/// A stream to a relay.
pub struct Stream {
    socket: UnixStream,
    /// Bytes of output that came.
    pub got: Cell<u64>,
}

/// One more command.
pub fn command(argv: &[&str], terminal: Option<WindowSize>) -> Command {
    Command {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![(b"A".to_vec(), b"yes".to_vec())],
        cwd: None,
        terminal,
    }
}

impl Service {
    /// The id of the session that was asked for by this number.
    pub fn session(&self, id: u8) -> SessionId {
        SessionId::from_random([id; 6])
    }

    /// Nothing of the session is left.
    pub fn gone(&self, session: &SessionId) {
        match self.next().0 {
            FromLauncher::Gone { session: gone, errors } => {
                assert!(gone == *session && errors.is_empty(), "{errors:?}");
            }
            other => panic!("not gone: {other:?}"),
        }
    }
}

impl Peer {
    /// A session that runs, and its output.
    pub fn start(
        service: &Service,
        id: u8,
        command: &[&str],
        change: impl FnOnce(&mut Plan),
    ) -> (Self, Stream) {
        let _side = service.ask_with(id, Mode::Overlay, command, "", change);
        match service.next() {
            (FromLauncher::Built { .. }, descriptors) => {
                let [keeper, relay] = <[OwnedFd; 2]>::try_from(descriptors).unwrap();
                (Self::new(keeper), Stream::new(relay))
            }
            other => panic!("not built: {other:?}"),
        }
    }

    fn new(socket: OwnedFd) -> Self {
        let packets = Packets::from_fd(socket);
        packets.set_nonblocking(true).unwrap();
        Self { packets, last: Cell::new(0), aside: RefCell::default() }
    }

    /// By the keeper's name, as the service.
    pub fn connect(rig: &Rig, session: &SessionId) -> Self {
        Self::connect_as(rig, session, rig::SERVICE)
    }

    pub fn connect_as(rig: &Rig, session: &SessionId, uid: u32) -> Self {
        let path = rig.base.join("run/keepers").join(session.as_str());
        Self::new(rig::dial(&path, SocketType::SEQPACKET, uid))
    }

    pub fn say(&self, message: &ToKeeper) {
        self.packets.send(&encode(message).unwrap(), &[]).unwrap();
    }

    fn receive(&self) -> Option<(FromKeeper, Vec<OwnedFd>)> {
        let until = Instant::now() + REPLY_TIMEOUT;
        loop {
            match self.packets.receive(MAX_KEEPER_PACKET, 1) {
                Ok(Some(packet)) => return Some((decode(&packet.bytes).unwrap(), packet.descriptors)),
                Ok(None) => return None,
                Err(PacketError::WouldBlock) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < until, "the keeper is silent");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next message.
    pub fn next(&self) -> (FromKeeper, Vec<OwnedFd>) {
        self.receive().expect("a message")
    }

    /// Whether the keeper sent this peer away.
    pub fn is_closed(&self) -> bool {
        self.receive().is_none()
    }

    /// The first message that fits; others wait. Events come in order, without gaps or doubles.
    fn find(&self, fits: impl Fn(&FromKeeper) -> bool) -> (FromKeeper, Vec<OwnedFd>) {
        let at = self.aside.borrow().iter().position(|(message, _)| fits(message));
        if let Some(found) = at.and_then(|at| self.aside.borrow_mut().remove(at)) {
            return found;
        }
        loop {
            let (message, descriptors) = self.next();
            if let FromKeeper::Event(event) = &message {
                assert_eq!(event.number, self.last.get() + 1);
                self.last.set(event.number);
            }
            if fits(&message) {
                return (message, descriptors);
            }
            self.aside.borrow_mut().push_back((message, descriptors));
        }
    }

    /// Waits for an event.
    pub fn until(&self, fits: impl Fn(&EventBody) -> bool) {
        self.find(|message| matches!(message, FromKeeper::Event(event) if fits(&event.body)));
    }

    pub fn run(&self, number: u32, command: Command) {
        self.say(&ToKeeper::Run { number, command: Box::new(command) });
    }

    /// The stream of a command that runs, or was asked for again.
    pub fn stream(&self, number: u32) -> Stream {
        let (_, mut descriptors) = self.find(|message| {
            matches!(message, FromKeeper::Running { command } | FromKeeper::Stream { command } if *command == number)
        });
        Stream::new(descriptors.pop().unwrap())
    }

    pub fn exited(&self, number: u32) -> ExitStatus {
        let fits = |m: &FromKeeper| matches!(m, FromKeeper::Exited { command, .. } if *command == number);
        let FromKeeper::Exited { status, .. } = self.find(fits).0 else { unreachable!() };
        status
    }

    /// What the session may reach, as the keeper says next.
    pub fn egress(&self) -> Egress {
        let found = self.find(|message| matches!(message, FromKeeper::Egress(_))).0;
        let FromKeeper::Egress(egress) = found else { unreachable!() };
        *egress
    }

    pub fn not_run(&self, number: u32) -> (CommandStep, i32) {
        let fits = |m: &FromKeeper| matches!(m, FromKeeper::NotRun { command, .. } if *command == number);
        let FromKeeper::NotRun { step, errno, .. } = self.find(fits).0 else { unreachable!() };
        (step, errno)
    }
}

impl Stream {
    fn new(socket: OwnedFd) -> Self {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        Self { socket, got: Cell::new(0) }
    }

    pub fn send(&self, kind: u8, payload: &[u8]) {
        let bytes = [&frame::header(kind, payload.len()).unwrap()[..], payload].concat();
        let written = (&self.socket).write_all(&bytes);
        assert!(written.is_ok() || kind == frame::ACK, "{written:?}");
    }

    fn next(&self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; frame::HEADER];
        (&self.socket).read_exact(&mut header).ok()?;
        let (kind, len) = frame::parse(header).unwrap();
        let mut payload = vec![0; len];
        (&self.socket).read_exact(&mut payload).unwrap();
        Some((kind, payload))
    }

    /// Goes on where the one before ended; how many bytes of input were taken.
    pub fn resume(&self) -> u64 {
        self.send(frame::RESUME, &self.got.get().to_le_bytes());
        let (kind, payload) = self.next().unwrap();
        assert_eq!(kind, frame::INPUT);
        u64::from_le_bytes(payload.try_into().unwrap())
    }

    /// Output up to `end`, which is not acknowledged.
    pub fn until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let (kind, payload) = self.next().unwrap_or_else(|| panic!("after {text:?}"));
            assert!(matches!(kind, frame::STDOUT | frame::STDERR), "{kind} after {text:?}");
            self.got.set(self.got.get() + payload.len() as u64);
            text.push_str(&String::from_utf8(payload).unwrap());
        }
        text
    }

    /// All output, acknowledged.
    pub fn rest(&self) -> String {
        let mut text = String::new();
        loop {
            let (kind, payload) = self.next().unwrap_or_else(|| panic!("after {text:?}"));
            if kind != frame::DRAINED {
                self.got.set(self.got.get() + payload.len() as u64);
                text.push_str(&String::from_utf8(payload).unwrap());
                continue;
            }
            self.send(frame::ACK, &self.got.get().to_le_bytes());
            return text;
        }
    }

    /// Whether the other end closed it without a word.
    pub fn is_lost(&self) -> bool {
        self.next().is_none()
    }
}
