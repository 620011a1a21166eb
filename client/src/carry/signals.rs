//! Signals that come to agentctl and are meant for the command.

use std::time::{Duration, Instant};

use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::{AttachInput, KillRequest};
use rustix::process::{Signal, getpid, kill_process};

use super::Carrier;
use crate::failure::Failure;
use crate::signals::{CONT, TSTP, WINCH};
use crate::stream::AttachStream;
use crate::terminal::window;

/// What a signal needs to be on its way before we stop.
const SENT: Duration = Duration::from_millis(20);
/// The same signal three times within this time means us.
const REPEAT_WINDOW: Duration = Duration::from_secs(2);

impl Carrier {
    /// Hands a signal on to the command, or does what it asks of us.
    pub(super) async fn signal(&mut self, number: i32, stream: &AttachStream) -> Result<(), Failure> {
        match number {
            WINCH if self.terminal && !self.watch => self.resize(),
            WINCH => {}
            TSTP => {
                self.send(number, 1, stream);
                tokio::time::sleep(SENT).await;
                if let Some(raw) = &self.raw {
                    raw.pause();
                }
                // Only a debugger could make this fail; then we go on.
                kill_process(getpid(), Signal::STOP).ok();
            }
            CONT => {
                if let Some(raw) = &self.raw {
                    raw.again().ok();
                }
                if self.terminal && !self.watch {
                    self.resize();
                }
                self.send(number, 1, stream);
            }
            _ => {
                let times = self.count(number, Instant::now());
                if times > 2 || self.watch {
                    return Err(Failure::Quiet(128 + number));
                }
                self.send(number, times, stream);
            }
        }
        Ok(())
    }

    /// The terminal's size goes before everything else, and only as it is last.
    fn resize(&mut self) {
        self.queue.retain(|kind| !matches!(kind, In::Resize(_)));
        self.queue.push_front(In::Resize(window()));
    }

    fn count(&mut self, number: i32, now: Instant) -> u32 {
        let (since, times) = match self.last {
            Some((last, since, times)) if last == number && now - since < REPEAT_WINDOW => (since, times + 1),
            _ => (now, 1),
        };
        self.last = Some((number, since, times));
        times
    }

    /// Sends it in order with the input. If input is stuck before it, or if it comes again, it goes beside.
    fn send(&self, number: i32, times: u32, stream: &AttachStream) {
        if self.watch {
            return;
        }
        let idle = self.queue.is_empty() && stream.input.capacity() == stream.input.max_capacity();
        if (idle && times == 1) || !self.beside {
            let message = AttachInput { kind: Some(In::Signal(number)) };
            if stream.input.try_send(message).is_ok() || !self.beside {
                return;
            }
        }
        let mut client = self.client.clone();
        let request = KillRequest { id: self.id.clone(), signal: Some(number) };
        tokio::spawn(async move { client.kill(request).await });
    }
}
