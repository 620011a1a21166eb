//! The thread that writes events and first records. It does not wait for the disk.

use std::path::Path;
use std::sync::Arc;

use agentd_policy::names::SessionId;
use agentd_proto::v1::Event;
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::{Log, StoreError, record};

/// An event, and with it the keeper's own number if it came from there.
pub struct EventLine {
    pub event: Event,
    pub source: Option<u64>,
}

impl EventLine {
    pub(super) fn write(&self, lines: &mut Vec<u8>) -> Result<(), StoreError> {
        serde_json::to_writer(&mut *lines, &self.event)?;
        if let Some(number) = self.source {
            lines.pop();
            lines.extend_from_slice(format!(",\"n\":{number}}}").as_bytes());
        }
        lines.push(b'\n');
        Ok(())
    }
}

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Job {
    Append { log: Arc<Log>, lines: Vec<u8>, urgent: bool, done: Done<u64> },
    Create { session: SessionId, record: Vec<u8>, done: Done<()> },
}

pub(super) fn run(mut queue: mpsc::Receiver<Job>, disk: &Disk, dir: &Path) {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Append { log, lines, urgent, done } => {
                let written = log.write(&lines, disk).map(|grown| {
                    let end = grown.end;
                    disk.grown(grown, urgent);
                    end
                });
                // The task that waited for it may be gone.
                done.send(written).ok();
            }
            Job::Create { session, record, done } => {
                let path = record::path(dir, &session);
                let put = || record::write(&path, &record).and_then(|file| record::put(&path).map(|()| file));
                let written = disk.ballast.room(put).map(|file| disk.created(session.clone(), file));
                let written = written.map_err(|source| StoreError::File { path, source });
                if let Err(error) = &written {
                    tracing::error!(%session, %error, "a record was not written");
                }
                done.send(written).ok();
            }
        }
    }
}
