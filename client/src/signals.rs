//! The signals that agentctl takes in the place of its command.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The terminal's size has changed.
pub const WINCH: i32 = 28;
/// Stop, as ctrl-z asks.
pub const TSTP: i32 = 20;
pub const CONT: i32 = 18;
/// What is handed on to the command: HUP, INT, QUIT, USR1, USR2, TERM.
const FORWARDED: &[i32] = &[1, 2, 3, 10, 12, 15];

/// Receives them, from the moment of its making on.
#[derive(Debug)]
pub struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Handles the signals, but for those that the process that started agentctl had ignored (`nohup`).
    ///
    /// # Errors
    /// As `sigaction(2)`.
    pub fn take() -> io::Result<Self> {
        let ignored = ignored();
        let wanted = FORWARDED.iter().chain(&[TSTP, CONT, WINCH]);
        wanted
            .filter(|number| ignored & (1 << (**number - 1)) == 0)
            .map(|number| Ok((*number, signal(SignalKind::from_raw(*number))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The same, as everything that attaches needs it.
    ///
    /// # Errors
    /// As [`Signals::take`].
    pub fn take_over() -> Result<Self, Failure> {
        Self::take().map_err(|error| Failure::failed(format!("cannot take signals: {error}")))
    }

    /// The next signal.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next signal that ends a program which does nothing about it.
    pub async fn next_ending(&mut self) -> i32 {
        loop {
            let number = self.next().await;
            if FORWARDED.contains(&number) {
                return number;
            }
        }
    }
}

/// The mask of ignored signals, bit 0 for signal 1; 0 if it cannot be read.
fn ignored() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| mask(&status))
}

fn mask(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read_from_proc() {
        assert_eq!(mask("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t00\n"), 0x1001);
        assert_eq!(mask("Name:\tx\n"), 0);
    }

    #[tokio::test]
    async fn a_signal_arrives() {
        let mut signals = Signals::take().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::WINCH).unwrap();
        assert_eq!(signals.next().await, WINCH);
    }
}
