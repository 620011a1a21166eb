//! What may change inside a session and must not change outside: a repository's configuration and hooks in a workspace
//! that is given as it is. A configuration is covered by a mount of a symbolic link into memory of the session's, which
//! git's lock file follows; hooks are an overlay that writes there. What is real stays byte for byte.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Tree};
use agentd_policy::names::AbsPath;
use agentd_policy::step::Step;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use super::root::{READ_ONLY, Root, WRITABLE_EXEC};
use super::view::{self, COPY_ON_WRITE};
use super::workspace::Placer;
use crate::init::Access;
use crate::keeper::Copied;
use crate::scout::{CopyKind, Part};

/// Where the copies are.
const COPIES: &str = "/run/agentd/git";
/// Where the links are that lead there.
const LINKS: &str = "/run/agentd/links";
/// What the copies of one session hold at most, in bytes.
const SIZE: u64 = 16 << 20;
/// The longest configuration that is copied, in bytes.
const MAX_CONFIG: usize = 1 << 20;

/// Configurations of a workspace's, as the search read them.
#[derive(Debug, Default)]
pub struct Configurations {
    /// Where they are.
    pub file: Option<OwnedFd>,
    /// By their path.
    pub parts: BTreeMap<String, Part>,
}

/// What a copy is, and its descriptors.
type Covered = (CopyKind, Vec<OwnedFd>);

/// The copies of one session.
#[derive(Debug)]
pub struct Copies {
    top: OwnedFd,
    links: OwnedFd,
    count: usize,
    /// Those that are looked at in the end; of more than it looks at, the first.
    pub all: Vec<Copied>,
}

impl Copies {
    fn make(root: &mut Root, agent: u32) -> Result<Self, Fault> {
        let tree = Tree::tmpfs(SIZE, agent, 0o700, WRITABLE_EXEC).at(Step::Git, COPIES)?;
        root.attach(COPIES, &tree, true, Access::WriteExec)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(COPIES, flags, Mode::empty()).at(Step::Git, COPIES)?;
        Ok(Self { top, links: root.directory(LINKS)?, count: 0, all: Vec::new() })
    }

    /// A new directory of the agent's, and its name.
    fn directory(&mut self, agent: u32) -> Result<(OwnedFd, String), Fault> {
        let name = self.count.to_string();
        self.count += 1;
        let dir = make_directory(self.top.as_fd(), &name, 0o700, (agent, agent))?;
        Ok((dir, name))
    }
}

impl Placer<'_> {
    /// Covers `place`, which is git's and called `name`, by what may be changed; whether it did. What is neither a
    /// configuration nor a directory of hooks, or cannot be copied, is left to be covered by itself.
    pub(super) fn cover_changeable(
        &mut self,
        workspace: &AbsPath,
        place: &OwnedFd,
        name: &str,
    ) -> Result<bool, Fault> {
        let stat = rustix::fs::fstat(place).at(Step::Git, name)?;
        let copied = match (FileType::from_raw_mode(stat.st_mode), name.rsplit('/').next()) {
            (FileType::RegularFile, Some("config" | "config.worktree")) => self.cover_config(place, name)?,
            (FileType::Directory, Some("hooks")) => self.cover_hooks(place, name)?,
            _ => None,
        };
        let Some((kind, descriptors)) = copied else { return Ok(false) };
        let (workspace, name) = (workspace.clone(), name.to_owned());
        let copied = Copied { workspace, name, kind, descriptors };
        self.copies()?.all.push(copied);
        Ok(true)
    }

    fn copies(&mut self) -> Result<&mut Copies, Fault> {
        if self.copies.is_none() {
            // The agent's rights, which the caller of this has, are not enough.
            self.copies = Some(Copies::make(self.root, self.lease.agent.get())?);
        }
        self.copies.as_mut().ok_or_else(|| Fault::unfit(Step::Git, COPIES, "no copies"))
    }

    /// By the copy that the search made: nothing of what the agent may have written is read here.
    fn cover_config(&mut self, place: &OwnedFd, name: &str) -> Result<Option<Covered>, Fault> {
        let agent = self.lease.agent.get();
        let Some(&part) = self.configurations.parts.get(name) else { return Ok(None) };
        let Some(all) = &self.configurations.file else { return Ok(None) };
        let start = all.try_clone().at(Step::Git, name)?;
        let copies = self.copies()?;
        let (dir, number) = copies.directory(agent)?;
        let assumed = FsIds::assume(agent);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&dir, "config", flags, Mode::from_raw_mode(0o644)).at(Step::Git, name)?;
        copy((&start, part), &file).at(Step::Git, name)?;
        drop(assumed);
        rustix::fs::symlinkat(format!("{COPIES}/{number}/config"), &copies.links, &number)
            .at(Step::Git, name)?;
        let link = Tree::copy_of_name(copies.links.as_fd(), &number).at(Step::Git, name)?;
        link.restrict(READ_ONLY, None).and_then(|()| link.attach(place.as_fd())).at(Step::Git, name)?;
        Ok(Some((CopyKind::Config(part), vec![dir, start])))
    }

    fn cover_hooks(&mut self, place: &OwnedFd, name: &str) -> Result<Option<Covered>, Fault> {
        let agent = self.lease.agent.get();
        let lower = Tree::copy_of_one(place.as_fd()).at(Step::Git, name)?;
        let stat = rustix::fs::fstat(place).at(Step::Git, name)?;
        let owner = (stat.st_uid, stat.st_gid);
        let copies = self.copies()?;
        let (dir, number) = copies.directory(agent)?;
        let upper = make_directory(dir.as_fd(), "upper", stat.st_mode & 0o777, owner)?;
        make_directory(dir.as_fd(), "work", stat.st_mode & 0o777, owner)?;
        let attributes = WRITABLE_EXEC.within(lower.as_fd()).at(Step::Git, name)?;
        let mounter = FsIds::of_mounter(self.owner, agent).at(Step::Git, name)?;
        let overlay = hooks(&lower, dir.as_fd(), attributes);
        drop(mounter);
        let overlay = match overlay {
            Ok(overlay) => overlay,
            Err(_) => {
                let below = view::layer(self.root, "lower", &lower)?;
                let own = format!("{COPIES}/{number}");
                let (writes, work) = (format!("{own}/upper"), format!("{own}/work"));
                let named = [("lowerdir", below.as_str()), ("upperdir", &writes), ("workdir", &work)];
                let options: Vec<_> = named.into_iter().chain(COPY_ON_WRITE).collect();
                let mounter = FsIds::of_mounter(self.owner, agent).at(Step::Git, name)?;
                let made = Tree::new("overlay", &options, attributes);
                drop(mounter);
                mount::detach(&below).at(Step::Git, &below)?;
                match made {
                    Ok(overlay) => overlay,
                    Err(error) if view::refused_by_overlay(&error) => return Ok(None),
                    Err(error) => return Err(Fault::host(Step::Git, name, error)),
                }
            }
        };
        overlay.attach(place.as_fd()).at(Step::Git, name)?;
        Ok(Some((CopyKind::Hooks, vec![upper])))
    }
}

/// An overlay over `lower` that writes to `own`.
fn hooks(
    lower: &Tree,
    own: BorrowedFd<'_>,
    attributes: mount::Attributes,
) -> Result<Tree, mount::MountError> {
    let (lower, upper) = (view::open(lower.as_fd(), ".")?, view::open(own, "upper")?);
    let work = view::open(own, "work")?;
    let layers = [("lowerdir+", lower.as_fd()), ("upperdir", upper.as_fd()), ("workdir", work.as_fd())];
    Tree::of_layers("overlay", &layers, &COPY_ON_WRITE, attributes)
}

/// Copies a part of a file, of at most [`MAX_CONFIG`] bytes.
fn copy((from, part): (&OwnedFd, Part), to: &OwnedFd) -> std::io::Result<()> {
    let mut at = part.at;
    let mut rest = usize::try_from(part.length).map_or(MAX_CONFIG, |length| length.min(MAX_CONFIG));
    while rest > 0 {
        match rustix::fs::sendfile(to, from, Some(&mut at), rest)? {
            0 => return Ok(()),
            count => rest = rest.saturating_sub(count),
        }
    }
    Ok(())
}

fn make_directory(
    parent: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<OwnedFd, Fault> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).at(Step::Git, name)?;
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).at(Step::Git, name)?;
    rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty()).at(Step::Git, name)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).at(Step::Git, name)
}
