//! The keeper's word: which commands there are, and where the service is.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentd_kernel::packets::{MAX_DESCRIPTORS, Packet, PacketError, Packets};
use agentd_policy::wire::{CommandNumber, FromRelay, MAX_PACKET, ToRelay, decode, encode};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::channel::{Channel, Order, Streams};
use crate::egress::Network;
use crate::{Descriptors, RelayError};

/// For what is left to send once the keeper is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often it is said that something went through.
const ACTIVE: Duration = Duration::from_secs(1);
/// Orders that wait for a channel, which takes them at once.
const ORDERS: usize = 4;

/// The relay's end of the control socket.
pub struct Control {
    socket: AsyncFd<Packets>,
    said: Mutex<Option<Instant>>,
}

impl Control {
    /// Something went through.
    pub fn active(&self) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| now.duration_since(said) >= ACTIVE) {
            *said = Some(now);
            self.say(&FromRelay::Active);
        }
    }

    /// A keeper that does not read, or is gone, does without.
    fn say(&self, message: &FromRelay) {
        let _ = encode(message).map(|packet| self.socket.get_ref().send(&packet, &[]));
    }

    /// Says what has to be heard, once there is room for it.
    pub async fn send(&self, message: &FromRelay) -> io::Result<()> {
        let packet = encode(message).map_err(io::Error::other)?;
        loop {
            match self.socket.get_ref().send(&packet, &[]) {
                Err(PacketError::WouldBlock) => {}
                other => return other.map_err(io::Error::other),
            }
            let mut ready = self.socket.writable().await?;
            match self.socket.get_ref().send(&packet, &[]) {
                Err(PacketError::WouldBlock) => ready.clear_ready(),
                other => return other.map_err(io::Error::other),
            }
        }
    }

    /// The next message; `None` once the keeper is gone.
    async fn hear(&self) -> Result<Option<(ToRelay, Vec<OwnedFd>)>, RelayError> {
        let error = |source| RelayError::Io { what: "hear the keeper", source };
        loop {
            let mut ready = self.socket.readable().await.map_err(error)?;
            match self.socket.get_ref().receive(MAX_PACKET, MAX_DESCRIPTORS) {
                Ok(None) => return Ok(None),
                Ok(Some(Packet { bytes, descriptors })) => {
                    let message = decode(&bytes).map_err(|error| RelayError::Keeper(error.to_string()))?;
                    return Ok(Some((message, descriptors)));
                }
                Err(PacketError::WouldBlock) => ready.clear_ready(),
                Err(other) => return Err(error(io::Error::other(other))),
            }
        }
    }
}

/// All commands that are carried.
struct Relay {
    control: Arc<Control>,
    channels: JoinSet<Result<CommandNumber, RelayError>>,
    orders: BTreeMap<CommandNumber, Sender<Order>>,
    network: Option<Network>,
    /// Ends its egress, once the session is over.
    closing: Option<JoinHandle<()>>,
    over: bool,
}

/// Carries until the session is over and everything is delivered, or the keeper is gone.
pub async fn relay(descriptors: Descriptors) -> Result<(), RelayError> {
    let Descriptors { service, control, streams } = descriptors;
    let control = Packets::from_fd(control);
    // Its successor is `unsafe`, for types whose descriptor may change or close under way. Packets that are
    // never lent mutably cannot.
    #[expect(deprecated)]
    let socket = control.set_nonblocking(true).and_then(|()| AsyncFd::new(control));
    let socket = socket.map_err(|source| RelayError::Io { what: "register the control socket", source })?;
    let control = Arc::new(Control { socket, said: Mutex::default() });
    let mut relay = Relay {
        control,
        channels: JoinSet::new(),
        orders: BTreeMap::new(),
        network: None,
        closing: None,
        over: false,
    };
    relay.carry(0, streams, service)?;
    relay.run().await?;
    if let Some(closing) = relay.closing.take() {
        closing.await?;
    }
    Ok(())
}

impl Relay {
    async fn run(&mut self) -> Result<(), RelayError> {
        let control = self.control.clone();
        while !(self.over && self.channels.is_empty()) {
            tokio::select! {
                message = control.hear() => match message? {
                    Some((message, descriptors)) => self.obey(message, descriptors).await?,
                    None => return self.last_words().await,
                },
                Some(ended) = self.channels.join_next() => self.ended(ended??),
            }
        }
        Ok(())
    }

    async fn obey(&mut self, message: ToRelay, descriptors: Vec<OwnedFd>) -> Result<(), RelayError> {
        let Some((message, descriptors)) = self.route(message, descriptors)? else { return Ok(()) };
        let mut descriptors = descriptors.into_iter();
        match message {
            ToRelay::Carry { command, terminal } => {
                let service = descriptors.next();
                let mut streams: Vec<OwnedFd> = descriptors.collect();
                let streams = match streams.pop() {
                    Some(master) if terminal && streams.is_empty() => Some(Streams::Terminal(master)),
                    Some(last) if !terminal => {
                        streams.push(last);
                        <[OwnedFd; 3]>::try_from(streams).ok().map(Streams::Pipes)
                    }
                    _ => None,
                };
                match (service, streams) {
                    (Some(service), Some(streams)) if !self.orders.contains_key(&command) => {
                        self.carry(command, streams, service)?;
                    }
                    _ => return Err(RelayError::Keeper("streams that are none".into())),
                }
            }
            ToRelay::Connect { command } => {
                if let (Some(orders), Some(fd)) = (self.orders.get(&command), descriptors.next()) {
                    // One that has ended meanwhile needs no stream: closing it says so.
                    let _ = orders.send(Order::Connect(fd)).await;
                }
            }
            ToRelay::Close { command } => {
                if let Some(orders) = self.orders.get(&command).filter(|_| command != 0) {
                    let _ = orders.send(Order::Close).await;
                }
            }
            ToRelay::Over => {
                self.over = true;
                if let Some(network) = self.network.take() {
                    let control = self.control.clone();
                    self.closing = Some(tokio::spawn(async move {
                        network.close().await;
                        // A keeper that is gone need not know.
                        let _ = control.send(&FromRelay::Silent).await;
                    }));
                }
                self.tell_all(|| Order::Over).await;
            }
            // For the network alone.
            _ => return Err(RelayError::Keeper("an answer to what was not asked".into())),
        }
        Ok(())
    }

    /// Takes what is about the egress; everything else comes back.
    fn route(
        &mut self,
        message: ToRelay,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<Option<(ToRelay, Vec<OwnedFd>)>, RelayError> {
        match (message, &mut self.network) {
            (ToRelay::Network { egress, blocklist }, None) => {
                self.network = Some(Network::open(*egress, blocklist, descriptors, self.control.clone())?);
            }
            (ToRelay::Policy { egress }, Some(network)) => network.policy(*egress),
            (ToRelay::Dialled { number, errno }, Some(network)) => {
                network.dialled(number, errno, descriptors.pop());
            }
            (ToRelay::Pinned { number, addresses }, Some(network)) => network.pinned(number, addresses),
            (ToRelay::Recorded { number }, Some(network)) => network.recorded(number),
            (ToRelay::Renew { name, question }, Some(network)) => network.renew(name, question),
            (ToRelay::Publish { publish }, Some(network)) => network.publish(publish, descriptors)?,
            // Answers to what was asked before the end.
            (
                ToRelay::Policy { .. }
                | ToRelay::Dialled { .. }
                | ToRelay::Pinned { .. }
                | ToRelay::Recorded { .. }
                | ToRelay::Renew { .. },
                None,
            ) if self.over => {}
            (other, _) => return Ok(Some((other, descriptors))),
        }
        Ok(None)
    }

    fn carry(&mut self, number: CommandNumber, streams: Streams, service: OwnedFd) -> Result<(), RelayError> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let channel = Channel::new(number, streams, service, receiver, self.control.clone())?;
        self.channels.spawn(channel.carry());
        self.orders.insert(number, orders);
        Ok(())
    }

    fn ended(&mut self, number: CommandNumber) {
        self.orders.remove(&number);
        if number != 0 {
            self.control.say(&FromRelay::Closed { command: number });
        }
    }

    async fn tell_all(&self, order: impl Fn() -> Order) {
        for orders in self.orders.values() {
            // One that has ended need not know.
            let _ = orders.send(order()).await;
        }
    }

    async fn last_words(&mut self) -> Result<(), RelayError> {
        self.tell_all(|| Order::LastWords).await;
        let all = async {
            while let Some(ended) = self.channels.join_next().await {
                ended??;
            }
            Ok(())
        };
        timeout(LAST_WORDS, all).await.map_err(|_| RelayError::KeeperGone)?
    }
}
