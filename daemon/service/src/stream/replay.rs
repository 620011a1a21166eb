//! Kept output, read piece by piece for a client.

use std::io;
use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use tokio::sync::Semaphore;

use crate::store::output::{Frame, Reader};
use crate::stream::hub::Hub;

/// What is read from disk at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Output that is read from disk.
pub struct Replay {
    hub: Arc<Hub>,
    reader: Option<Reader>,
    at: u64,
    end: u64,
}

impl Replay {
    /// From `at` up to `end`.
    pub fn new(hub: &Arc<Hub>, at: u64, end: u64) -> Self {
        Self { hub: hub.clone(), reader: None, at, end }
    }

    /// The next pieces; `None` at the end.
    pub async fn next(&mut self, readers: &Semaphore) -> Result<Option<Vec<Frame>>, Refusal> {
        if self.at >= self.end {
            return Ok(None);
        }
        let gone = |why: &str| Refusal::new(format!("kept output: {why}"), Rule::AttachGone, "attach anew");
        let turn = readers.acquire().await.map_err(|_| gone("nobody reads it"))?;
        let (hub, reader, at, end) = (self.hub.clone(), self.reader.take(), self.at, self.end);
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = match (reader, &hub.log) {
                (Some(reader), _) => reader,
                (None, Some(log)) => log.reader(at, end)?,
                (None, None) => return Err(io::ErrorKind::NotFound.into()),
            };
            let frames = read(&mut reader)?;
            io::Result::Ok((reader, frames))
        });
        let read = read.await;
        drop(turn);
        let (reader, frames) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(gone(&error.to_string())),
            Err(_) => return Err(gone("it could not be read")),
        };
        self.reader = Some(reader);
        match (frames.first(), frames.last()) {
            (Some(first), Some(last)) if first.at == self.at => self.at = last.end(),
            _ => return Err(gone("it was overtaken by what came later")),
        }
        Ok(Some(frames))
    }
}

fn read(reader: &mut Reader) -> io::Result<Vec<Frame>> {
    let (mut frames, mut size) = (Vec::new(), 0);
    while size < CHUNK
        && let Some(frame) = reader.next()?
    {
        size += frame.bytes.len() + 64;
        frames.push(frame);
    }
    Ok(frames)
}
