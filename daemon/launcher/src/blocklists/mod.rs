//! The site's blocklists. Root opens the files and reads none of them: a short-lived child under the service's account
//! does, with nothing but their descriptors, a pipe, and memory into which it writes the table of their names. That is
//! sealed, and every session that begins egress has it.

mod reader;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use agentd_kernel::memfd::{self, Sealed};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::{creds, lockdown};
use agentd_policy::blocklist::{self, Blocklist, KEY, ListFile, MAX_TABLE, Summary};
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::{MAX_PACKET, decode, encode};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use agentd_session::error::{HostError, On as _};

/// How long it may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What the child may have in memory, in bytes: the most names while they are sorted, and what it inherits.
const MEMORY: u64 = 512 << 20;
/// The longest reason, in characters.
const MAX_REASON: usize = 400;

/// What every error is on that is of no one file.
const OBJECT: &str = "blocklists";

/// The child's last message: what each file holds.
type Report = Result<Vec<Summary>, NotRead>;

/// Why the child read no table.
#[derive(Debug, Serialize, Deserialize)]
struct NotRead {
    /// Which file is no list; `None` if it is not about one.
    list: Option<u8>,
    why: String,
}

impl NotRead {
    fn host(error: impl Into<HostError>) -> Self {
        Self { list: None, why: error.into().to_string() }
    }
}

/// A child at work.
pub struct Compiling {
    child: Child,
    table: OwnedFd,
    report: File,
    lists: Vec<ListFile>,
}

impl Compiling {
    /// Starts it; `None` if the site names no file.
    ///
    /// # Errors
    /// A file that cannot be a list.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Option<Self>, HostError> {
        let lists = settings.config.egress.blocklists.clone();
        if lists.is_empty() {
            return Ok(None);
        }
        let files = lists.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut key = [0; KEY];
        if getrandom(&mut key, GetRandomFlags::empty()).on(OBJECT)? != KEY {
            return Err(HostError::unfit("no random key").on(OBJECT));
        }
        let table = memfd::create("agentd-blocklists").on(OBJECT)?;
        let (report, writer) = std::io::pipe().on(OBJECT)?;
        let worker = Worker { lists: &lists, files, table: table.as_fd(), key };
        let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
            let report = worker.run((settings.service_uid, settings.service_gid), writer.as_fd());
            // A launcher that is gone needs none.
            let sent = encode(&report).map(|bytes| rustix::io::write(&writer, &bytes));
            i32::from(report.is_err() || !matches!(sent, Ok(Ok(_))))
        });
        Ok(Some(Self { child: child.on(OBJECT)?, table, report: OwnedFd::from(report).into(), lists }))
    }

    /// The table; `None` while the child is at work.
    ///
    /// # Errors
    /// Which file is no list, and why.
    pub fn ended(&mut self) -> Result<Option<Sealed>, HostError> {
        let Some(how) = self.child.try_wait().on(OBJECT)? else { return Ok(None) };
        let mut bytes = vec![0; MAX_PACKET];
        // Nobody has the other end any more.
        let count = rustix::io::read(&self.report, bytes.as_mut_slice()).on(OBJECT)?;
        let report = decode::<Report>(&bytes[..count]);
        match (how, report) {
            (ExitStatus::Code(0), Ok(Ok(summaries))) if summaries.len() == self.lists.len() => {
                let (table, names) = seal(&self.table)?;
                self.log(&summaries, &names);
                Ok(Some(table))
            }
            (_, Ok(Err(NotRead { list, why }))) => {
                let file = list.and_then(|list| self.lists.get(usize::from(list)));
                Err(HostError::unfit(clean(&why)).on(file.map_or(OBJECT, |file| file.path.as_str())))
            }
            (how, _) => Err(HostError::unfit(format!("what reads them ended with {how:?}")).on(OBJECT)),
        }
    }

    /// The same, once the child has ended.
    fn wait(mut self) -> Result<Sealed, HostError> {
        let timeout = rustix::event::Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        let ended = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended.clone(), Some(&timeout))).on(OBJECT)?;
        if let Some(table) = self.ended()? {
            return Ok(table);
        }
        self.child.kill().and_then(|()| self.child.wait()).on(OBJECT)?;
        Err(HostError::unfit(format!("not read in {DEADLINE:?}")).on(OBJECT))
    }

    pub fn kill(&self) -> std::io::Result<()> {
        self.child.kill()
    }

    fn log(&self, summaries: &[Summary], names: &Blocklist) {
        for (list, summary) in self.lists.iter().zip(summaries).filter(|(_, summary)| summary.odd > 0) {
            let (lines, first) = (summary.odd, clean(&summary.reasons.join("; ")));
            tracing::warn!(path = %list.path, lines, first, "lines of a blocklist are skipped");
        }
        tracing::info!(lists = self.lists.len(), names = names.names(), "the blocklists were read");
    }
}

impl AsFd for Compiling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

/// Reads the site's blocklists, before anybody waits.
///
/// # Errors
/// Which file is no list, and why.
pub fn read(token: SingleThreaded, settings: &Settings) -> Result<Option<Sealed>, HostError> {
    Compiling::start(token, settings)?.map(Compiling::wait).transpose()
}

fn open(list: &ListFile) -> Result<File, HostError> {
    // What is no file must not hold anybody up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(list.path.as_str(), flags, Mode::empty()).on(&list.path)?);
    let meta = file.metadata().on(&list.path)?;
    blocklist::check_file(meta.is_file(), meta.len(), meta.uid(), meta.mode())
        .map_err(|e| HostError::unfit(e.to_string()).on(&list.path))?;
    Ok(file)
}

/// What the child left, if it is a table.
fn seal(table: &OwnedFd) -> Result<(Sealed, Blocklist), HostError> {
    let sealed = Sealed::seal(table.try_clone().on(OBJECT)?).on(OBJECT)?;
    let size = sealed.size().on(OBJECT)?;
    let reader = Sealed::adopt(sealed.try_clone().on(OBJECT)?).on(OBJECT)?;
    let names = Blocklist::open(size, move |buffer, offset| reader.read_exact_at(buffer, offset));
    Ok((sealed, names.map_err(|e| HostError::unfit(e.to_string()))?))
}

/// What a child says, for the log.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

/// What the child has.
struct Worker<'a> {
    lists: &'a [ListFile],
    files: Vec<File>,
    table: BorrowedFd<'a>,
    key: [u8; KEY],
}

impl Worker<'_> {
    fn run(&self, ids: (u32, u32), writer: BorrowedFd<'_>) -> Report {
        self.give_up(ids, writer).map_err(NotRead::host)?;
        reader::compile(self.lists, &self.files, self.table, self.key)
    }

    /// Everything but the descriptors that it works on.
    fn give_up(&self, (uid, gid): (u32, u32), writer: BorrowedFd<'_>) -> Result<(), HostError> {
        process::set_title(c"agentd-lists")?;
        let mut keep = vec![self.table, writer];
        keep.extend(self.files.iter().map(AsFd::as_fd));
        process::close_all_but(&keep)?;
        for (resource, most) in [(Resource::Fsize, MAX_TABLE), (Resource::Data, MEMORY)] {
            let most = Rlimit { current: Some(most), maximum: Some(most) };
            setrlimit(resource, most)?;
        }
        creds::become_ids(uid, gid)?;
        creds::drop_all_capabilities()?;
        creds::parent_death_signal()?;
        Ok(lockdown::relay().map(drop)?)
    }
}
