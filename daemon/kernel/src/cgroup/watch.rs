//! What a keeper holds of its session's group.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::fs::OFlags;

use super::files::{open_at, write_at};
use super::{CgroupError, Controller, Group, failed};

/// The longest line of cgroup.procs.
const NUMBER: usize = 11;

/// A keeper's hold on its session's group.
#[derive(Debug)]
pub struct Watch {
    kill: OwnedFd,
    pids: OwnedFd,
    pids_notify: bool,
    memory: OwnedFd,
    memory_ready: Option<OwnedFd>,
    members: OwnedFd,
}

impl Group {
    /// What a keeper needs of the group once it has no rights: all of it by descriptors opened now.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn watch(&self) -> Result<Watch, CgroupError> {
        let kill = open_at(self.v2.as_fd(), "cgroup.kill", OFlags::WRONLY)?;
        let dir = |controller: Controller| {
            self.v1
                .iter()
                .find(|v1| v1.controllers.contains(&controller))
                .map_or(self.v2.as_fd(), |v1| v1.dir.as_fd())
        };
        let pids = open_at(dir(Controller::Pids), "pids.events", OFlags::RDONLY)?;
        let memory_dir = dir(Controller::Memory);
        let (memory, memory_ready) = if self.v2_controllers.contains(&Controller::Memory) {
            (open_at(memory_dir, "memory.events", OFlags::RDONLY)?, None)
        } else {
            let control = open_at(memory_dir, "memory.oom_control", OFlags::RDONLY)?;
            let ready = event_fd()?;
            // cgroup-v1/memory.rst, 10: an eventfd that becomes readable when memory is out.
            let request = format!("{} {}", ready.as_raw_fd(), control.as_raw_fd());
            write_at(memory_dir, "cgroup.event_control", &request)?;
            (control, Some(ready))
        };
        let pids_notify = self.v2_controllers.contains(&Controller::Pids);
        let members = open_at(self.v2.as_fd(), "cgroup.procs", OFlags::RDONLY)?;
        Ok(Watch { kill, pids, pids_notify, memory, memory_ready, members })
    }
}

impl Watch {
    /// Kills every process of the session.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn kill(&self) -> std::io::Result<()> {
        rustix::io::write(&self.kill, b"1")?;
        Ok(())
    }

    /// Whether [`Watch::pids_fd`] says by itself that the limit was hit. The v1 hierarchy's does not (seen on
    /// 6.18): it has to be looked at.
    pub fn pids_notify(&self) -> bool {
        self.pids_notify
    }

    /// Reports priority data when the pids limit was hit.
    pub fn pids_fd(&self) -> BorrowedFd<'_> {
        self.pids.as_fd()
    }

    /// Reports priority data (cgroup2) or is readable (v1) when memory was out.
    pub fn memory_fd(&self) -> BorrowedFd<'_> {
        self.memory_ready.as_ref().unwrap_or(&self.memory).as_fd()
    }

    /// Whether [`Watch::memory_fd`] is an eventfd rather than a file of cgroup2.
    pub fn memory_is_eventfd(&self) -> bool {
        self.memory_ready.is_some()
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let own = [&self.kill, &self.pids, &self.memory, &self.members];
        own.into_iter().chain(&self.memory_ready).map(AsFd::as_fd).collect()
    }

    /// The session's processes, as the caller's pid namespace numbers them; `None` if there are more than `most`.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn processes(&self, most: usize) -> std::io::Result<Option<Vec<i32>>> {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = rustix::io::pread(&self.members, &mut buffer, text.len() as u64)?;
            text.extend(&buffer[..count]);
            if count == 0 {
                break;
            }
            if text.len() > most * NUMBER {
                return Ok(None);
            }
        }
        let text = String::from_utf8_lossy(&text);
        let numbers: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Some(numbers).filter(|numbers| numbers.len() <= most))
    }

    /// How often a fork was refused.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn pids_hits(&self) -> std::io::Result<u64> {
        Ok(value_of(&pread_text(&self.pids)?, "max"))
    }

    /// How many processes the kernel killed for memory. Quiets the v1 notification.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn memory_kills(&self) -> std::io::Result<u64> {
        if let Some(ready) = &self.memory_ready {
            match rustix::io::read(ready, &mut [0; 8]) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(value_of(&pread_text(&self.memory)?, "oom_kill"))
    }
}

fn value_of(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn pread_text(fd: &OwnedFd) -> std::io::Result<String> {
    let mut bytes = [0; 1024];
    let count = rustix::io::pread(fd, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

fn event_fd() -> Result<OwnedFd, CgroupError> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(failed("eventfd")(std::io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        assert_eq!(value_of("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(value_of("max 2\n", "max"), 2);
        assert_eq!(value_of("", "max"), 0);
    }
}
