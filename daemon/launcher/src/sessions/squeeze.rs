//! What is done with project quotas while the host's disk is nearly full: nobody may have much more than they have, and
//! all together no more than a part of the reserve. The image
//! that overlays share takes its room as it is written to, so that the kernel would promise what the host cannot keep.
//! A launcher that is started meanwhile does not know what the limits were: they stay lowered until a session ends.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::quota;
use agentd_policy::limits::DiskForm;
use agentd_policy::names::SessionId;
use agentd_session::{Reserve, Space, Usage};
use rustix::fs::{Mode, OFlags};

use crate::context::Context;
use agentd_session::error::HostError;

/// How often the host's disk is looked at, while there are sessions.
const LOOK: Duration = Duration::from_millis(100);
/// What a project may have at least, and how many more files.
const LEAST: Usage = Usage { bytes: 4096, inodes: 64 };
/// All sessions together may take this part of the reserve.
const PART: u64 = 4;

/// The limits that are lowered, by project.
#[derive(Debug, Default)]
pub struct Squeeze {
    next: Option<Instant>,
    lowered: BTreeMap<u32, (OwnedFd, Usage)>,
}

impl Squeeze {
    /// When to look next.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Looks, if it is time, on behalf of the sessions that write.
    pub fn tick<'a>(
        &mut self,
        cx: &Context,
        now: Instant,
        sessions: impl Iterator<Item = (u32, &'a SessionId)>,
    ) {
        if cx.disk.form != DiskForm::Quota || self.next.is_some_and(|next| now < next) {
            return;
        }
        let sessions: Vec<_> = sessions.collect();
        self.next = (!sessions.is_empty()).then(|| now + LOOK);
        if sessions.is_empty() {
            self.lowered.clear();
            return;
        }
        let space = match Space::of(&cx.directories.state) {
            Ok(space) => space,
            Err(errno) => return tracing::error!(error = %errno, "the host's disk cannot be looked at"),
        };
        let reserve = Reserve::of(space.size, cx.settings.config.disk_reserve);
        if reserve.is_touched(&space) {
            let more = reserve.0.bytes / PART / sessions.len() as u64;
            for (owner, session) in sessions {
                if let Err(error) = self.lower(cx, (owner, session), more) {
                    tracing::error!(%session, %error, "what it may write cannot be lowered");
                }
            }
        } else if space.free.bytes > reserve.0.bytes + reserve.0.bytes / 4 {
            self.restore();
        }
    }

    fn lower(
        &mut self,
        cx: &Context,
        (owner, session): (u32, &SessionId),
        more: u64,
    ) -> Result<(), HostError> {
        let Some(user) = cx.directories.user_overlays(owner)? else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&user, session.as_str(), flags, Mode::empty());
        let directory = directory?;
        let project = quota::project(directory.as_fd())?;
        let project = project.ok_or(HostError::unfit("it is in no project"))?;
        if self.lowered.contains_key(&project) {
            return Ok(());
        }
        let has = quota::get(directory.as_fd(), project)?;
        let bytes = has.bytes.saturating_add(more).max(LEAST.bytes).min(has.bytes_limit);
        let inodes = has.inodes.saturating_add(LEAST.inodes).min(has.inodes_limit);
        quota::limit(directory.as_fd(), project, bytes, inodes)?;
        tracing::warn!(%session, bytes, "the host's disk is nearly full: it may write no more than it has");
        let before = Usage { bytes: has.bytes_limit, inodes: has.inodes_limit };
        self.lowered.insert(project, (directory, before));
        Ok(())
    }

    fn restore(&mut self) {
        for (project, (directory, limit)) in std::mem::take(&mut self.lowered) {
            if let Err(error) = quota::limit(directory.as_fd(), project, limit.bytes, limit.inodes) {
                tracing::error!(project, %error, "what it may write stays lowered");
            }
        }
    }
}
