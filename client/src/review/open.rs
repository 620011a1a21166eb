//! What there is to review of a session, from the launcher: it gives views of what was written, for workspaces that the
//! client opened itself.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use agentd_policy::mount::{MAX_MOUNTS, MAX_POINTS};
use agentd_policy::names::{RelPath, SessionId};
use agentd_policy::offer::{FromClient, ToClient};
use agentd_policy::review::{Directory, Kept, Opened};
use agentd_policy::rule::Rule;
use agentd_review::beneath::Tree;
use agentd_review::error::Side as TreeSide;
use agentd_review::path::FilePath;
use agentd_review::trees::{Stamp, Trees};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::connect::Socket;
use crate::failure::Failure;
use crate::find::Found;
use crate::side::Side;

/// What was named of one workspace, and the workspace.
struct Named {
    kept: Kept,
    made: Vec<RelPath>,
}

/// How long a launcher that has too much to do, or has not cleared an ended session away, is asked again.
const AGAIN_FOR: Duration = Duration::from_secs(10);
/// Between two times.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks until the answer is another than a refusal by `rule`, for a while.
fn again<T>(rule: Rule, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(failure) if failure.is_by(rule) && began.elapsed() < AGAIN_FOR => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// The trees of every overlay workspace of `session`, which may run or have ended. Views are read-only and last as long
/// as they are open. The workspaces are opened here, with the caller's own rights.
///
/// # Errors
/// The launcher's refusal: it shows nobody another user's session, root neither. If a workspace is not where it was, or
/// is another directory by now.
pub fn open_review(socket: &Socket, session: &SessionId) -> Result<Vec<Trees>, Failure> {
    again(Rule::HostBusy, || open_once(socket, session))
}

fn open_once(socket: &Socket, session: &SessionId) -> Result<Vec<Trees>, Failure> {
    let side = Side::connect(socket)?;
    side.send(&FromClient::Review(session.clone()), &[])?;
    let (named, placeholder) = receive_names(&side)?;
    let workspaces: Vec<_> = named.iter().map(|named| open(&named.kept)).collect::<Result<_, _>>()?;
    let descriptors: Vec<_> = workspaces.iter().map(OwnedFd::as_fd).collect();
    let count = u8::try_from(named.len()).map_err(|_| side.malformed())?;
    side.send(&Opened { workspaces: count }, &descriptors)?;
    let mut views = match side.receive()? {
        (ToClient::Views(views), attached) if views == count => attached,
        (other, _) => return Err(side.unexpected(other)),
    };
    let pairs = named.into_iter().zip(workspaces);
    let trees: Vec<_> = pairs
        .map(|(Named { kept, made }, workspace)| {
            let [upper, merged] = views.array().map_err(|_| side.malformed())?;
            trees(kept, made, placeholder, [workspace, upper, merged])
        })
        .collect::<Result<_, _>>()?;
    Ok(trees)
}

/// Has what a session changed deleted. It has ended, and its record stays. An ended one may not be cleared away yet.
///
/// # Errors
/// The launcher's refusal.
pub fn discard(socket: &Socket, found: &Found) -> Result<(), Failure> {
    match found.has_ended {
        true => again(Rule::SessionRunning, || discard_once(socket, &found.id)),
        false => discard_once(socket, &found.id),
    }
}

fn discard_once(socket: &Socket, session: &SessionId) -> Result<(), Failure> {
    let side = Side::connect(socket)?;
    side.send(&FromClient::Discard(session.clone()), &[])?;
    match side.receive()? {
        (ToClient::Discarded, _) => Ok(()),
        (other, _) => Err(side.unexpected(other)),
    }
}

fn receive_names(side: &Side) -> Result<(Vec<Named>, Directory), Failure> {
    let mut all: Vec<Named> = Vec::new();
    loop {
        match side.receive()?.0 {
            ToClient::Workspace(kept) if all.len() < MAX_MOUNTS => {
                all.push(Named { kept: *kept, made: Vec::new() });
            }
            ToClient::Made(names) => match all.last_mut() {
                Some(last) if last.made.len() + names.len() <= MAX_POINTS => last.made.extend(names),
                _ => return Err(side.malformed()),
            },
            ToClient::Open(placeholder) => return Ok((all, placeholder)),
            other => return Err(side.unexpected(other)),
        }
    }
}

/// Opens a workspace by its path, which must still lead to the directory that the session had.
fn open(kept: &Kept) -> Result<OwnedFd, Failure> {
    let Kept { path, top, .. } = kept;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path.as_str(), flags, Mode::empty());
    let found = opened.and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
    match found {
        Ok((fd, stat)) if (stat.st_dev, stat.st_ino) == (top.device, top.inode) => Ok(fd),
        Ok(_) => Err(moved(format!("{path}, which was moved or replaced"))),
        Err(errno) => Err(moved(format!("workspace {path}: {}", std::io::Error::from(errno)))),
    }
}

fn moved(what: String) -> Failure {
    Failure::refused(what, Rule::ReviewMoved, "put the directory back where the session had it")
}

fn trees(
    kept: Kept,
    made: Vec<RelPath>,
    placeholder: Directory,
    [workspace, upper, merged]: [OwnedFd; 3],
) -> Result<Trees, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", kept.path));
    let mut names: BTreeSet<FilePath> = BTreeSet::new();
    for name in made {
        names.insert(FilePath::parse(name.as_str().as_bytes()).map_err(|error| failed(&error))?);
    }
    for name in links_of(placeholder, &upper).map_err(|errno| failed(&std::io::Error::from(errno)))? {
        names.insert(FilePath::parse(&name).map_err(|error| failed(&error))?);
    }
    let (seconds, nanoseconds) = kept.began;
    Ok(Trees {
        workspace: Tree::new(TreeSide::Workspace, workspace),
        upper: Tree::new(TreeSide::Upper, upper),
        merged: Tree::new(TreeSide::Merged, merged),
        began: Stamp { seconds, nanoseconds },
        made: names,
        path: kept.path,
    })
}

/// The names at the top of `upper` that are links of `placeholder`.
fn links_of(placeholder: Directory, upper: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    if rustix::fs::fstat(upper)?.st_dev != placeholder.device {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    // Not Dir::read_from: it would open the directory as `upper` is, which may be for its path alone.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for entry in Dir::new(rustix::fs::openat(upper, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let stat = (entry.ino() == placeholder.inode)
            .then(|| rustix::fs::statat(upper, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW))
            .transpose()?;
        let is_link =
            |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino) == (placeholder.device, placeholder.inode);
        if stat.is_some_and(is_link) {
            found.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(found)
}
