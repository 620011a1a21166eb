//! A session's commands and its egress, as the keeper's messages start, change and end them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::wire::{
    Attached, CarryDescriptors, CommandNumber, CommandStreams, FromRelay, NetworkDescriptors, ToRelay,
};
use rustix::io::Errno;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::channel::{Channel, Order};
use crate::control::Control;
use crate::egress::Network;
use crate::{Descriptors, RelayError};

/// How long buffered output is still sent once the keeper is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Orders that wait for a channel, which takes them at once.
const ORDERS: usize = 4;

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
    let control = Arc::new(Control::new(control)?);
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
                message = control.recv() => match message? {
                    Some((message, attached)) => self.handle(message, attached).await?,
                    None => return self.drain().await,
                },
                Some(ended) = self.channels.join_next() => self.ended(ended??),
            }
        }
        Ok(())
    }

    async fn handle(&mut self, message: ToRelay, mut attached: Attached<OwnedFd>) -> Result<(), RelayError> {
        match message {
            ToRelay::Carry { command, terminal } => {
                let CarryDescriptors { service, streams } = CarryDescriptors::take(terminal, attached)?;
                if self.orders.contains_key(&command) {
                    return Err(RelayError::Unexpected("a command that is carried already"));
                }
                self.carry(command, streams, service)?;
            }
            ToRelay::Connect { command } => {
                let stream = attached.one()?;
                if let Some(orders) = self.orders.get(&command) {
                    // One that has ended meanwhile needs no stream: closing it says so.
                    orders.send(Order::Connect(stream)).await.ok();
                }
            }
            ToRelay::Close { command } => {
                if let Some(orders) = self.orders.get(&command).filter(|_| command != 0) {
                    orders.send(Order::Close).await.ok();
                }
            }
            ToRelay::Over => {
                self.over = true;
                if let Some(network) = self.network.take() {
                    let control = self.control.clone();
                    self.closing = Some(tokio::spawn(async move {
                        network.close().await;
                        // A keeper that is gone need not know.
                        control.send(&FromRelay::Silent).await.ok();
                    }));
                }
                self.send_all(|| Order::Over).await;
            }
            ToRelay::Network { egress, blocklist } if self.network.is_none() => {
                let descriptors = NetworkDescriptors::take(&egress, blocklist, attached)?;
                self.network = Some(Network::open(*egress, descriptors, self.control.clone())?);
            }
            ToRelay::Network { .. } => return Err(RelayError::Unexpected("a second network")),
            ToRelay::Policy { .. }
            | ToRelay::Dialled { .. }
            | ToRelay::Pinned { .. }
            | ToRelay::Recorded { .. }
            | ToRelay::Renew { .. }
            | ToRelay::Publish { .. } => self.handle_egress(message, attached)?,
        }
        Ok(())
    }

    /// Handles what is about the egress alone.
    fn handle_egress(&mut self, message: ToRelay, mut attached: Attached<OwnedFd>) -> Result<(), RelayError> {
        let Some(network) = &mut self.network else {
            // Answers to what was asked before the end.
            let late = self.over && !matches!(message, ToRelay::Publish { .. });
            return if late { Ok(()) } else { Err(RelayError::Unexpected("an answer without a network")) };
        };
        match message {
            ToRelay::Policy { egress } => network.policy(*egress),
            ToRelay::Dialled { number, errno: Some(errno) } => {
                network.dialled(number, Err(Errno::from_raw_os_error(errno)));
            }
            ToRelay::Dialled { number, errno: None } => network.dialled(number, Ok(attached.one()?)),
            ToRelay::Pinned { number, addresses } => network.pinned(number, addresses),
            ToRelay::Recorded { number } => network.recorded(number),
            ToRelay::Renew { name, question } => network.renew(name, question),
            ToRelay::Publish { publish } => network.publish(publish, attached.rest())?,
            ToRelay::Carry { .. }
            | ToRelay::Connect { .. }
            | ToRelay::Close { .. }
            | ToRelay::Over
            | ToRelay::Network { .. } => return Err(RelayError::Unexpected("not about the egress")),
        }
        Ok(())
    }

    fn carry(
        &mut self,
        number: CommandNumber,
        streams: CommandStreams<OwnedFd>,
        service: OwnedFd,
    ) -> Result<(), RelayError> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let channel = Channel::new(number, streams, service, receiver, self.control.clone())?;
        self.channels.spawn(channel.carry());
        self.orders.insert(number, orders);
        Ok(())
    }

    fn ended(&mut self, number: CommandNumber) {
        self.orders.remove(&number);
        if number != 0 {
            self.control.try_send(&FromRelay::Closed { command: number });
        }
    }

    async fn send_all(&self, order: impl Fn() -> Order) {
        for orders in self.orders.values() {
            // One that has ended need not know.
            orders.send(order()).await.ok();
        }
    }

    async fn drain(&mut self) -> Result<(), RelayError> {
        self.send_all(|| Order::Drain).await;
        let all = async {
            while let Some(ended) = self.channels.join_next().await {
                ended??;
            }
            Ok(())
        };
        timeout(DRAIN_TIMEOUT, all).await.map_err(|_| RelayError::KeeperGone)?
    }
}
