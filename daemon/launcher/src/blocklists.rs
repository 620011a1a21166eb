//! The site's blocklists. Root opens the files and reads none of them: a short-lived child under the service's account
//! does, with nothing but their descriptors, a pipe, and memory into which it writes the table of their names. That is
//! sealed, and every session that begins egress has it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use agentd_kernel::memfd::{self, Sealed};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::{creds, lockdown};
use agentd_policy::blocklist::{self, Blocklist, Compiler, KEY, ListFile, MAX_TABLE, Summary};
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::{MAX_PACKET, decode, encode};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::settings::Settings;

/// How long it may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What the child may have in memory, in bytes: the most names while they are sorted, and what it inherits.
const MEMORY: u64 = 512 << 20;
/// The longest reason, in characters.
const MAX_REASON: usize = 400;

/// What the child says at its end: what each file holds, or which one is no list, and why.
type Report = Result<Vec<Summary>, (Option<u8>, String)>;

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
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Option<Self>, String> {
        let lists = settings.config.egress.blocklists.clone();
        if lists.is_empty() {
            return Ok(None);
        }
        let files = lists.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let fail = |e: std::io::Error| format!("blocklists: {e}");
        let mut key = [0; KEY];
        if getrandom(&mut key, GetRandomFlags::empty()).map_err(|e| fail(e.into()))? != KEY {
            return Err("blocklists: no random key".into());
        }
        let table = memfd::create("agentd-blocklists").map_err(fail)?;
        let (report, tell) = std::io::pipe().map_err(fail)?;
        let worker = Worker { lists: &lists, files, table: table.as_fd(), key };
        let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
            let report = worker.run((settings.service_uid, settings.service_gid), tell.as_fd());
            // A launcher that is gone needs none.
            let told = encode(&report).map(|bytes| rustix::io::write(&tell, &bytes));
            i32::from(report.is_err() || !matches!(told, Ok(Ok(_))))
        });
        Ok(Some(Self { child: child.map_err(fail)?, table, report: OwnedFd::from(report).into(), lists }))
    }

    /// The table; `None` while the child is at work.
    ///
    /// # Errors
    /// Which file is no list, and why.
    pub fn ended(&mut self) -> Result<Option<Sealed>, String> {
        let fail = |e: std::io::Error| format!("blocklists: {e}");
        let Some(how) = self.child.try_wait().map_err(fail)? else { return Ok(None) };
        let mut bytes = vec![0; MAX_PACKET];
        // Nobody has the other end any more.
        let count = rustix::io::read(&self.report, bytes.as_mut_slice()).map_err(|e| fail(e.into()))?;
        let report = decode::<Report>(&bytes[..count]);
        match (how, report) {
            (ExitStatus::Code(0), Ok(Ok(summaries))) if summaries.len() == self.lists.len() => {
                let (table, names) = seal(&self.table)?;
                self.tell(&summaries, &names);
                Ok(Some(table))
            }
            (_, Ok(Err((list, why)))) => {
                let file = list.and_then(|list| self.lists.get(usize::from(list)));
                Err(format!("{}: {}", file.map_or("blocklists", |file| file.path.as_str()), clean(&why)))
            }
            (how, _) => Err(format!("blocklists: what reads them ended with {how:?}")),
        }
    }

    /// The same, once the child has ended.
    fn wait(mut self) -> Result<Sealed, String> {
        let fail = |e: std::io::Error| format!("blocklists: {e}");
        let timeout = rustix::event::Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        let ended = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended.clone(), Some(&timeout)))
            .map_err(|e| fail(e.into()))?;
        if let Some(table) = self.ended()? {
            return Ok(table);
        }
        self.child.kill().and_then(|()| self.child.wait()).map_err(fail)?;
        Err(format!("blocklists: not read in {DEADLINE:?}"))
    }

    /// Ends it.
    pub fn kill(&self) -> std::io::Result<()> {
        self.child.kill()
    }

    fn tell(&self, summaries: &[Summary], names: &Blocklist) {
        for (list, summary) in self.lists.iter().zip(summaries).filter(|(_, summary)| summary.odd > 0) {
            let (lines, first) = (summary.odd, clean(&summary.reasons.join("; ")));
            tracing::warn!(path = %list.path, lines, first, "lines of a blocklist are passed over");
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
pub fn read(token: SingleThreaded, settings: &Settings) -> Result<Option<Sealed>, String> {
    Compiling::start(token, settings)?.map(Compiling::wait).transpose()
}

fn open(list: &ListFile) -> Result<File, String> {
    let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", list.path);
    // What is no file must not hold anybody up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(list.path.as_str(), flags, Mode::empty()).map_err(|e| fail(&e))?);
    let meta = file.metadata().map_err(|e| fail(&e))?;
    blocklist::check_file(meta.is_file(), meta.len(), meta.uid(), meta.mode()).map_err(|e| fail(&e))?;
    Ok(file)
}

/// What the child left, if it is a table.
fn seal(table: &OwnedFd) -> Result<(Sealed, Blocklist), String> {
    let fail = |e: std::io::Error| format!("blocklists: {e}");
    let sealed = Sealed::seal(table.try_clone().map_err(fail)?).map_err(fail)?;
    let size = sealed.size().map_err(fail)?;
    let reader = Sealed::adopt(sealed.try_clone().map_err(fail)?).map_err(fail)?;
    let names = Blocklist::open(size, move |buffer, offset| reader.read_exact_at(buffer, offset));
    Ok((sealed, names.map_err(|e| e.to_string())?))
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
    fn run(&self, ids: (u32, u32), tell: BorrowedFd<'_>) -> Report {
        self.give_up(ids, tell).map_err(|why| (None, why))?;
        let labels = self.lists.iter().map(|list| list.label.clone()).collect();
        let mut compiler = Compiler::new(self.key, labels);
        let mut summaries = Vec::new();
        for (number, file) in (0..).zip(&self.files) {
            let read = blocklist::read(file, |scope, name| compiler.add(number, scope, name));
            summaries.push(read.map_err(|error| (Some(number), error.to_string()))?);
            compiler.check().map_err(|full| (Some(number), full.to_string()))?;
        }
        let written = compiler.finish(|mut bytes| {
            while !bytes.is_empty() {
                bytes = &bytes[rustix::io::retry_on_intr(|| rustix::io::write(self.table, bytes))?..];
            }
            Ok::<_, rustix::io::Errno>(())
        });
        written.map_err(|errno| (None, errno.to_string()))?;
        Ok(summaries)
    }

    /// Everything but the descriptors that it works on.
    fn give_up(&self, (uid, gid): (u32, u32), tell: BorrowedFd<'_>) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        process::set_title(c"agentd-lists").map_err(|e| text(&e))?;
        let mut keep = vec![self.table, tell];
        keep.extend(self.files.iter().map(AsFd::as_fd));
        process::close_all_but(&keep).map_err(|e| text(&e))?;
        for (resource, most) in [(Resource::Fsize, MAX_TABLE), (Resource::Data, MEMORY)] {
            let most = Rlimit { current: Some(most), maximum: Some(most) };
            setrlimit(resource, most).map_err(|e| text(&e))?;
        }
        creds::become_ids(uid, gid).map_err(|e| text(&e))?;
        creds::drop_all_capabilities().map_err(|e| text(&e))?;
        creds::parent_death_signal().map_err(|e| text(&e))?;
        lockdown::relay().map(drop).map_err(|e| text(&e))
    }
}
