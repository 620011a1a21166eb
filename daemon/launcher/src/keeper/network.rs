//! Packets that the session's nftables refused, as the kernel logs them.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::nflog::{Denied, Nflog};
use agentd_kernel::nft::Table;
use agentd_policy::event::EventBody;

use super::spool::Spool;
use crate::init::Network;

/// Denials to the same place within this time are one event with a count.
pub const WINDOW: Duration = Duration::from_millis(100);
/// What is read at once, in bytes.
const BUFFER: usize = 64 << 10;

/// The log, and the denials that are being counted together.
pub struct Denials {
    log: Nflog,
    table: Table,
    buffer: Vec<u8>,
    current: Option<(Denied, u64, Instant)>,
}

impl Denials {
    /// Of a session's network.
    pub fn new(network: Network) -> Self {
        let log = Nflog::from_fd(network.log);
        let table = Table::from_fd(network.nft);
        Self { log, table, buffer: vec![0; BUFFER], current: None }
    }

    /// The session's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Everything that it holds.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.log.as_fd(), self.table.as_fd()]
    }

    /// Takes what the kernel has logged.
    pub fn read(&mut self, spool: &mut Spool) -> Result<(), String> {
        let denied = self.log.read(&mut self.buffer).map_err(|e| format!("nflog: {e}"))?;
        spool.lost(self.log.lost());
        let now = Instant::now();
        for one in denied {
            match &mut self.current {
                Some((same, count, _)) if *same == one => *count += 1,
                _ => {
                    self.flush(spool);
                    self.current = Some((one, 1, now));
                }
            }
        }
        Ok(())
    }

    /// Tells of what is being counted.
    pub fn flush(&mut self, spool: &mut Spool) {
        if let Some((denied, count, _)) = self.current.take() {
            spool.push(EventBody::NetDenied {
                protocol: denied.protocol,
                address: denied.address,
                port: denied.port,
                count,
            });
        }
    }

    /// The same, once its window is over.
    pub fn flush_older(&mut self, now: Instant, spool: &mut Spool) {
        if self.next_flush().is_some_and(|due| due <= now) {
            self.flush(spool);
        }
    }

    /// When the window is over.
    pub fn next_flush(&self) -> Option<Instant> {
        self.current.as_ref().map(|(_, _, since)| *since + WINDOW)
    }
}

impl AsFd for Denials {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }
}
