//! What is masked and protected in a workspace, and how: every ancestor of such a name becomes a mount point itself, so
//! that no rename gets around it (`EBUSY`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Tree};
use agentd_policy::git::Part;
use agentd_policy::mode::Mode as WorkspaceMode;
use agentd_policy::mount::{MAX_POINTS, Workspace};
use agentd_policy::names::RelPath;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::fault::{self, At, Fault};
use super::fs_ids::FsIds;
use super::paths::Source;
use super::root::{MASKED_DIR, MASKED_FILE, PROGRAMS, READ_ONLY, open_beneath};
use super::workspace::Placer;
use crate::error::HostError;
use crate::scout::{Missing, Report};

/// How often a name is looked at again that goes at the moment in which it is covered.
const TRIES: u32 = 8;
/// What a file says that stands for a missing `commondir`: where it is already.
pub const COMMON_DIR: &[u8] = b".\n";

/// How a name is covered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    /// By what cannot be opened.
    Mask,
    /// By itself, read-only.
    Protect,
}

/// A name to cover.
struct Name {
    cover: Cover,
    missing: Missing,
}

/// The names to cover in `workspace`: what a mask or a protected directory covers needs nothing besides.
fn names(workspace: &Workspace, report: &Report) -> BTreeMap<RelPath, Name> {
    let mut all = BTreeMap::new();
    // What git follows in a copy leads nobody outside anywhere.
    let in_copy =
        |name: &RelPath| workspace.mode == WorkspaceMode::Overlay && is_git(workspace, name.as_str());
    let held = match workspace.mode {
        WorkspaceMode::Ro => Missing::Leave,
        WorkspaceMode::Overlay | WorkspaceMode::Direct => Missing::File,
    };
    for guard in &report.protect {
        all.insert(guard.path.clone(), Name { cover: Cover::Protect, missing: guard.missing });
    }
    for name in workspace.protect.iter().filter(|name| !in_copy(name)) {
        let missing = if workspace.mode == WorkspaceMode::Ro { Missing::Leave } else { kind_of(name) };
        all.entry(name.clone()).or_insert(Name { cover: Cover::Protect, missing });
    }
    for name in &report.mask {
        all.insert(name.clone(), Name { cover: Cover::Mask, missing: Missing::Leave });
    }
    for name in &workspace.mask {
        all.insert(name.clone(), Name { cover: Cover::Mask, missing: held });
    }
    if workspace.git == Some(Part::Common) {
        for (name, missing) in held_in_common() {
            all.insert(name, Name { cover: Cover::Protect, missing });
        }
    }
    let masks: Vec<RelPath> =
        all.iter().filter(|(_, n)| n.cover == Cover::Mask).map(|(path, _)| path.clone()).collect();
    all.retain(|path, _| !masks.iter().any(|mask| path != mask && path.is_in(mask)));
    all
}

/// What a protected name stands for, as far as its last name shows.
fn kind_of(name: &RelPath) -> Missing {
    match name.components().next_back() {
        Some("commondir") => Missing::CommonDir,
        Some(
            "hooks" | ".husky" | ".vscode" | ".idea" | ".codex" | ".cursor" | "commands" | "agents"
            | "modules" | "worktrees",
        ) => Missing::Directory,
        _ => Missing::File,
    }
}

/// What says which objects and references there are, where those are not copies: written to the copy alone, it would be
/// wrong outside (`git pack-refs` takes packed references away from where they were). Without `packed-refs` there are
/// none; an empty `shallow` would mean something.
fn held_in_common() -> impl Iterator<Item = (RelPath, Missing)> {
    let held = [("packed-refs", Missing::Empty), ("shallow", Missing::Socket)];
    held.into_iter().filter_map(|(name, missing)| Some((RelPath::parse(name).ok()?, missing)))
}

/// Whether a name lies in a repository's own directory.
fn is_git(workspace: &Workspace, name: &str) -> bool {
    workspace.git.is_some() || name.split('/').any(|component| component == ".git")
}

/// What stands at a name, and whether it is a placeholder of this session's.
struct Found {
    place: OwnedFd,
    made: bool,
    /// Whether it is the name itself, and no file where a directory on the way would be.
    whole: bool,
}

impl Placer<'_> {
    /// Covers what the plan and the search name.
    pub(super) fn cover(
        &mut self,
        workspace: &Workspace,
        source: &Source,
        report: &Report,
    ) -> Result<(), Fault> {
        let names = names(workspace, report);
        // With the agent's rights over files: how this ends must not show what it could not see.
        let _agent = FsIds::assume(self.lease.agent.get());
        let (mut points, mut made) = (BTreeSet::new(), BTreeSet::new());
        let mut read_only: Vec<RelPath> = Vec::new();
        for (name, Name { cover, missing }) in names {
            // What is missing in a directory that is read-only as a whole cannot be made.
            let inside = read_only.iter().any(|outer| name.is_in(outer));
            let missing = if inside { Missing::Leave } else { missing };
            let full = format!("{}/{name}", workspace.path);
            let mut tries = 0;
            while let Some(found) =
                self.descend((workspace, source), &name, (cover, missing), (&mut points, &mut made))?
            {
                // A placeholder looks like nothing: git and others pass over it.
                let empty = cover == Cover::Mask || (found.made && !is_git(workspace, name.as_str()));
                let changeable =
                    !empty && !found.made && found.whole && is_git(workspace, name.as_str()) && {
                        let root = FsIds::own();
                        let covered = self.cover_changeable(&workspace.path, &found.place, name.as_str());
                        drop(root);
                        covered?
                    };
                let covered = match (empty, changeable) {
                    (true, _) => cover_masked(&found.place),
                    (false, true) => Ok(()),
                    (false, false) => cover_read_only(&found.place),
                };
                // Another session's placeholder, taken away at that moment: look again.
                let gone = rustix::fs::fstat(&found.place).is_ok_and(|stat| stat.st_nlink == 0);
                tries += 1;
                if covered.is_err() && gone && tries < TRIES {
                    continue;
                }
                if found.made && !is_git(workspace, name.as_str()) {
                    self.stand_ins.push(name.as_str().to_owned());
                }
                covered.at(if cover == Cover::Mask { Step::Mask } else { Step::Protect }, &full)?;
                if cover == Cover::Protect && !changeable && is_directory(&found.place)? {
                    read_only.push(name.clone());
                }
                if workspace.mode == WorkspaceMode::Direct {
                    self.covered.push(full);
                }
                break;
            }
            if points.len() + self.covered.len() > MAX_POINTS {
                return Err(Fault::caller(
                    format!("{} has more than {MAX_POINTS} names to mask and protect", workspace.path),
                    Rule::WorkspaceNames,
                    "use a smaller directory, or mode overlay",
                ));
            }
        }
        self.made.extend(made);
        Ok(())
    }

    /// Goes down to `name`, making mount points of the directories on the way; what is to be covered. `None`
    /// if there is nothing to cover.
    fn descend(
        &mut self,
        (workspace, source): (&Workspace, &Source),
        name: &RelPath,
        (cover, missing): (Cover, Missing),
        (points, made): (&mut BTreeSet<String>, &mut BTreeSet<String>),
    ) -> Result<Option<Found>, Fault> {
        let top = workspace.path.as_str();
        let mut dir = mount::place(top).at(Step::Workspace, top)?;
        let mut walked = String::new();
        let mut components = name.components().peekable();
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            walked = if walked.is_empty() { component.to_owned() } else { format!("{walked}/{component}") };
            let place = match open_beneath(dir.as_fd(), component) {
                Ok(place) => place,
                Err(Errno::NOENT) => {
                    // A repository that is not there has nothing to be protected in; one that is made is found in the
                    // end.
                    let repository = cover == Cover::Protect && component == ".git";
                    let overlay = workspace.mode == WorkspaceMode::Overlay;
                    if missing == Missing::Leave
                        || repository
                        || (overlay && cover == Cover::Protect && !last)
                    {
                        return Ok(None);
                    }
                    if workspace.mode == WorkspaceMode::Direct {
                        self.placeholders.announce(source, &walked)?;
                    }
                    let kind = match (last, overlay) {
                        (false, _) => Missing::Directory,
                        (true, true) if missing == Missing::File => Missing::Socket,
                        (true, _) => missing,
                    };
                    match placeholder(dir.as_fd(), component, kind) {
                        Ok(()) => {
                            made.insert(walked.clone());
                        }
                        // Another session was faster.
                        Err(Errno::EXIST) => {}
                        // Neither can the agent make it.
                        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if !self.owns(dir.as_fd())? => {
                            return Ok(None);
                        }
                        Err(errno) => return Err(placeholder_fault(top, &walked, &errno)),
                    }
                    fault::here(Step::Placeholder)?;
                    open_beneath(dir.as_fd(), component).at(Step::Placeholder, &walked)?
                }
                // Its owner could open it again and find what was to be covered.
                Err(Errno::ACCESS) => {
                    return Err(Fault::caller(
                        format!("{top}/{walked} cannot be looked at"),
                        Rule::WorkspaceClosed,
                        "make the directories on the way to masked and protected names searchable",
                    ));
                }
                Err(Errno::LOOP) => {
                    return Err(Fault::caller(
                        format!("{top}/{walked} is a symbolic link"),
                        Rule::WorkspaceSymlink,
                        "masked and protected names must not lead through links; replace it by what it names",
                    ));
                }
                Err(errno) => return Err(Fault::host(Step::Workspace, &walked, errno)),
            };
            if last || !is_directory(&place)? {
                let made = made.contains(&walked) || self.held.contains(&walked);
                return Ok(Some(Found { place, made, whole: last }));
            }
            if points.insert(walked.clone()) {
                let own = Tree::copy_of(place.as_fd()).at(Step::Protect, &walked)?;
                own.attach(place.as_fd()).at(Step::Protect, &walked)?;
            }
            dir = open_beneath(dir.as_fd(), component).at(Step::Protect, &walked)?;
        }
        Ok(None)
    }

    /// Whether the agent owns a directory, and so could open it.
    fn owns(&self, dir: BorrowedFd<'_>) -> Result<bool, Fault> {
        let stat = rustix::fs::fstat(dir).at(Step::Placeholder, "directory")?;
        let read_only = rustix::fs::fstatvfs(dir)
            .at(Step::Placeholder, "directory")?
            .f_flag
            .contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(stat.st_uid == self.lease.agent.get() && !read_only)
    }
}

/// Makes a missing name, with no more rights than the caller has.
fn placeholder(dir: BorrowedFd<'_>, name: &str, missing: Missing) -> rustix::io::Result<()> {
    if missing == Missing::Directory {
        return rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755));
    }
    if missing == Missing::Socket {
        return rustix::fs::mknodat(dir, name, FileType::Socket, Mode::empty(), 0);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?;
    if missing == Missing::CommonDir {
        rustix::io::write(&file, COMMON_DIR)?;
    }
    Ok(())
}

fn is_directory(place: &OwnedFd) -> Result<bool, Fault> {
    let stat = rustix::fs::fstat(place).at(Step::Workspace, "a name to cover")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn placeholder_fault(top: &str, name: &str, errno: &Errno) -> Fault {
    Fault::caller(
        format!("{top}/{name} does not exist and cannot be held free: {errno}"),
        Rule::WorkspacePlaceholder,
        "create it, or use a workspace that you may write to",
    )
}

/// Covers `place` by itself, read-only.
fn cover_read_only(place: &OwnedFd) -> Result<(), HostError> {
    let stat = rustix::fs::fstat(place)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let attributes = if directory { PROGRAMS } else { READ_ONLY };
    let cover = Tree::copy_of(place.as_fd())?;
    Ok(cover.restrict(attributes, None).and_then(|()| cover.attach(place.as_fd()))?)
}

/// Covers `place` by what nobody may open: a closed directory, or a socket that nobody listens at, which programs that
/// collect files pass over.
fn cover_masked(place: &OwnedFd) -> Result<(), HostError> {
    let stat = rustix::fs::fstat(place)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let empty = mount::place(if directory { MASKED_DIR } else { MASKED_FILE })?;
    let cover = Tree::copy_of(empty.as_fd())?;
    Ok(cover.restrict(READ_ONLY, None).and_then(|()| cover.attach(place.as_fd()))?)
}

/// What was covered for `path`: itself, or the file that stands where a directory on the way would be.
fn covered_place(path: &str) -> std::io::Result<OwnedFd> {
    match (mount::place(path), path.rsplit_once('/')) {
        (Err(error), Some((parent, _))) if error.kind() == std::io::ErrorKind::NotADirectory => {
            covered_place(parent)
        }
        (place, _) => place,
    }
}

/// Whether every cover in a directory that others change too is still there: what went before anybody watched
/// went unseen.
pub fn verify_covered(covered: &[String]) -> Result<(), Fault> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    for path in covered {
        let place = covered_place(path).at(Step::Protect, path)?;
        let stat = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .at(Step::Protect, path)?;
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Fault::caller(
                format!("{path} was replaced while the session was built"),
                Rule::WorkspaceChanged,
                "ask again",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::names::AbsPath;

    fn rel(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    #[test]
    fn a_mask_covers_what_is_below_it_and_the_kind_of_a_placeholder_is_known() {
        let workspace = Workspace {
            path: AbsPath::parse("/w").unwrap(),
            descriptor: 0,
            mode: WorkspaceMode::Direct,
            mask: vec![rel("secrets")],
            mask_anywhere: vec![],
            protect: vec![rel(".git/hooks"), rel(".git/config"), rel("secrets/x"), rel(".git/commondir")],
            sockets: vec![],
            git: None,
        };
        let report = Report { mask: vec![rel("secrets/.env"), rel("a/.env")], ..Report::default() };
        let all = names(&workspace, &report);
        assert_eq!(
            all.keys().map(RelPath::as_str).collect::<Vec<_>>(),
            [".git/commondir", ".git/config", ".git/hooks", "a/.env", "secrets"]
        );
        assert!(all[&rel(".git/hooks")].missing == Missing::Directory);
        assert!(all[&rel(".git/commondir")].missing == Missing::CommonDir);
        assert!(
            all[&rel("secrets")].missing == Missing::File && all[&rel("a/.env")].missing == Missing::Leave
        );
    }
}
