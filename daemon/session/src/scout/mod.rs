//! What looks for names in a workspace, at the session's start and, in mode `direct`, at its end: there a process of
//! its own with the agent's ids and no right besides, because what it reads of repositories may have been written by an
//! agent. It runs no program. Elsewhere only [names] are looked at, and no file is opened.

mod aside;
mod history;
mod index;
mod objects;
mod report;
mod repository;
mod search;
mod sockets;
mod tools;
mod trouble;
mod walk;

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Tree};
use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::{creds, seccomp};
use agentd_policy::Refusal;
use agentd_policy::event::Finding;
use agentd_policy::mount::Workspace;
use agentd_policy::names::{AbsPath, RelPath};
use agentd_policy::wire::{MAX_PACKET, decode_with, encode};

use crate::error::{HostError, On as _};
use report::{Configuration, Found};
pub use report::{CopyKind, CopyOf, FromScout, Missing, Part, Report, SearchAgain};
use search::{Search, State};

/// The most findings that are reported by name at the end.
const MAX_FOUND: usize = 64;
/// The most copies that are looked at.
pub const MAX_COPIES: usize = 64;
/// The most that copies of configurations hold together, in bytes.
const MAX_COPIED: u64 = 8 << 20;
/// The longest path that is reported, in bytes.
const MAX_PATH: usize = 512;

/// What a scout is sent out with.
pub struct Commission<'a> {
    /// What is searched.
    pub workspace: &'a Workspace,
    /// Its directory, without what covers it for the agent.
    pub tree: &'a Tree,
    /// An empty file, for copies of git's configurations.
    pub copies: BorrowedFd<'a>,
    /// Whose rights it has.
    pub agent: u32,
    /// And by which groups.
    pub groups: &'a [u32],
    /// Where it is accounted.
    pub cgroup: BorrowedFd<'a>,
    /// An empty root.
    pub empty_root: BorrowedFd<'a>,
    /// What it may ask of the kernel.
    pub filter: &'a seccomp::Filter,
    /// That fork is sound.
    pub token: SingleThreaded,
}

/// What is to be covered in a workspace that is given as an overlay or read-only; `top` is its directory. Whoever calls
/// it has the agent's rights over files.
///
/// # Errors
/// The refusal for the caller.
pub fn names(workspace: &Workspace, top: BorrowedFd<'_>, agent: u32) -> Result<Report, Refusal> {
    let mut search = Search::of(workspace, None);
    let report = search.run(top, agent).and_then(|()| search.report());
    report.map_err(|trouble| trouble.refusal(workspace.path.as_str()))
}

/// One that waits for the end.
#[derive(Debug)]
pub struct Scout {
    /// What it searches.
    pub workspace: AbsPath,
    /// The process. It ends once it has answered, or its socket is closed.
    pub child: Child,
    pub socket: Packets,
}

const NO_ANSWER: &str = "it ended without an answer";

impl Commission<'_> {
    /// Sends it out and waits for what it says. It stays for the end.
    pub fn run(&self) -> Result<(FromScout, Option<Scout>), HostError> {
        let (socket, own) = Packets::pair()?;
        let birth = CloneArgs { cgroup: Some(self.cgroup), ..CloneArgs::default() };
        let child = process::spawn(self.token, birth, || match self.search(&own) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(workspace = %self.workspace.path, %error, "a workspace cannot be searched");
                1
            }
        })?;
        drop(own);
        let scout = Scout { workspace: self.workspace.path.clone(), child, socket };
        let said = scout.receive();
        match &said {
            Ok(Some(FromScout::Report(_))) => {}
            _ => {
                scout.end();
                return said?.map(|said| (said, None)).ok_or(HostError::unfit(NO_ANSWER));
            }
        }
        let said = said?.ok_or(HostError::unfit(NO_ANSWER))?;
        Ok((said, Some(scout)))
    }

    fn search(&self, socket: &Packets) -> Result<(), HostError> {
        let copies = self.copies.try_clone_to_owned()?;
        let top = self.give_up(socket, copies.as_fd())?;
        let copies = std::fs::File::from(copies);
        let (answer, before) = self.first(&top, copies)?;
        let answer = encode(&answer)?;
        socket.send(&answer, &[])?;
        let Some(before) = before else { return Ok(()) };
        // Without a keeper there is nobody to report to.
        let Some(asked) = socket.receive(MAX_PACKET, 2 * MAX_COPIES)? else {
            return Ok(());
        };
        let (SearchAgain { copies }, attached) = decode_with(&asked.bytes, asked.descriptors)?;
        let mut found = self.last(&top, &before);
        aside::look(&copies, attached, &mut found);
        let found = encode(&FromScout::Found(found))?;
        Ok(socket.send(&found, &[])?)
    }

    /// The agent's ids, an empty root, no right, nothing but the directory.
    fn give_up(&self, socket: &Packets, copies: BorrowedFd<'_>) -> Result<OwnedFd, HostError> {
        process::set_title(c"agentd-scout")?;
        let flags = walk::DIRECTORY;
        let top = rustix::fs::openat(self.tree, ".", flags, rustix::fs::Mode::empty())?;
        mount::enter_namespace(self.empty_root)?;
        // The mount of a tree that is attached nowhere goes with its descriptor.
        process::close_all_but(&[top.as_fd(), self.tree.as_fd(), socket.as_fd(), copies])?;
        creds::become_member(self.agent, self.agent, self.groups)?;
        creds::drop_all_capabilities()?;
        creds::no_new_privs()?;
        creds::not_dumpable()?;
        creds::parent_death_signal()?;
        seccomp::install(self.filter).map(drop)?;
        Ok(top)
    }

    fn first(
        &self,
        top: &OwnedFd,
        mut copies: std::fs::File,
    ) -> Result<(FromScout, Option<State>), HostError> {
        let mut search = Search::of(self.workspace, None);
        let report = sockets::refuse(top.as_fd(), &self.workspace.sockets)
            .and_then(|()| search.run(top.as_fd(), self.agent))
            .and_then(|()| search.report());
        let mut report = match report {
            Ok(report) => report,
            Err(trouble) => {
                return Ok((FromScout::Refused(trouble.refusal(self.workspace.path.as_str())), None));
            }
        };
        let mut at = 0;
        for (path, text) in std::mem::take(&mut search.configurations) {
            let path = std::str::from_utf8(&path).ok().and_then(|path| RelPath::parse(path).ok());
            let part = Part { at, length: text.len() as u64 };
            // What is too much, or has no name that a plan can have, is covered without a copy.
            let Some(path) = path.filter(|_| part.at + part.length <= MAX_COPIED) else { continue };
            copies.write_all(&text).on(format_args!("a copy of {path}"))?;
            at += part.length;
            report.configurations.push(Configuration { path, part });
        }
        Ok((FromScout::Report(report), Some(search.state)))
    }

    /// What is there now that was not, or was otherwise.
    fn last(&self, top: &OwnedFd, before: &State) -> Found {
        let mut search = Search::of(self.workspace, Some(before));
        let mut found: Vec<(String, Finding)> = Vec::new();
        if let Err(trouble) = search.run(top.as_fd(), self.agent) {
            tracing::debug!(?trouble, "the search at the end stopped");
            found.push((String::new(), Finding::Unsearched));
        }
        let now = &search.state;
        let files = now.files.iter().filter(|(path, known)| before.files.get(*path) != Some(known));
        let entries = now.entries.iter().filter(|(path, known)| before.entries.get(*path) != Some(known));
        // A repository that is new is one thing to look at.
        let repositories: Vec<&[u8]> = now
            .files
            .iter()
            .filter(|(path, (what, _))| *what == Finding::Repository && !before.files.contains_key(*path))
            .map(|(path, _)| path.as_slice())
            .collect();
        let in_new = |path: &[u8], what: Finding| {
            what == Finding::Git
                && repositories.iter().any(|new| {
                    new.is_empty() || path.strip_prefix(*new).is_some_and(|rest| rest.starts_with(b"/"))
                })
        };
        let all = files
            .map(|(path, (what, _))| (path, *what))
            .chain(entries.map(|(path, (what, ..))| (path, *what)));
        let mut more = 0;
        for (path, what) in all.filter(|(path, what)| !in_new(path, *what)) {
            if found.len() < MAX_FOUND {
                let text: String = String::from_utf8_lossy(path).chars().take(MAX_PATH).collect();
                found.push((text, what));
            } else {
                more += 1;
            }
        }
        Found { left: found, more_left: more, ..Found::default() }
    }
}

impl Scout {
    /// Its next message; `None` if it is gone, or sent something else.
    pub fn receive(&self) -> Result<Option<FromScout>, PacketError> {
        let packet = self.socket.receive(MAX_PACKET, 0)?;
        let message = packet.and_then(|packet| decode_with(&packet.bytes, packet.descriptors).ok());
        Ok(message.map(|(message, _)| message))
    }

    /// Has it search once more, and look at copies of what is in its workspace.
    pub fn ask(&self, again: &SearchAgain, descriptors: &[BorrowedFd<'_>]) -> Result<(), HostError> {
        let packet = encode(again)?;
        Ok(self.socket.send(&packet, descriptors)?)
    }

    /// Ends it. A keeper has no right to: then it ends by itself, without a socket, and at the latest with its keeper.
    pub fn end(self) {
        let Self { child, socket, .. } = self;
        let killed = child.kill().is_ok();
        drop(socket);
        let waited = if killed { child.wait().map(drop) } else { child.try_wait().map(drop) };
        if let Err(error) = waited {
            tracing::error!(%error, "a search of a workspace cannot be waited for");
        }
    }
}
