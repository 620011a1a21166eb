//! The caller's directories in the session: direct, read-only or copy-on-write, with names masked and
//! protected in them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Attributes, MountError, Tree};
use agentd_kernel::process::SingleThreaded;
use agentd_policy::event::Finding;
use agentd_policy::lease::Lease;
use agentd_policy::mode::Mode as WorkspaceMode;
use agentd_policy::mount::Workspace;
use agentd_policy::names::RelPath;
use agentd_policy::review::{About, Directory};
use agentd_policy::step::Step;
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, linkat};
use rustix::io::Errno;

use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use super::inside::{Configurations, Copies};
use super::paths::{Placeholders, Source};
use super::root::{PROGRAMS, Root, WRITABLE_EXEC, open_beneath};
use super::uppers::Upper;
use super::view::{self, COPY_ON_WRITE, cannot_layer, cannot_map};
use crate::host::Host;
use crate::init::Access;
use crate::order::Owner;
use crate::scout::{self, Commission, FromScout, Report, Scout};

/// What places callers' directories.
pub struct Placer<'a> {
    pub root: &'a mut Root,
    /// The map of everything that can be written through.
    pub writable: BorrowedFd<'a>,
    /// The map of the caller's paths that are only read.
    pub owners: BorrowedFd<'a>,
    /// Whose session it is.
    pub owner: Owner,
    /// Whose ids placeholders are made with.
    pub lease: &'a Lease,
    /// The names that were covered in directories that are given as they are.
    pub covered: Vec<String>,
    /// Who gets the names that are made in directories of the caller.
    pub placeholders: Placeholders<'a>,
    /// What a search needs of the host.
    pub host: &'a Host,
    /// Where it is accounted.
    pub helpers: BorrowedFd<'a>,
    /// That fork is sound.
    pub token: SingleThreaded,
    /// What searches again in the end.
    pub scouts: Vec<Scout>,
    /// What is known before the session begins: covered files whose other names were not found.
    pub found: Vec<(String, Finding)>,
    /// Names that were made in the workspace that is being covered.
    pub made: Vec<String>,
    /// Names in its upper directory that are the host's placeholder.
    pub held: BTreeSet<String>,
    /// Configurations of git's in the workspace that is being covered, as the search read them.
    pub configurations: Configurations,
    /// Copies of what may be changed inside alone, if there are any.
    pub copies: Option<Copies>,
    /// Those of all workspaces that are no directories on the way to others.
    pub stand_ins: Vec<String>,
}

impl Placer<'_> {
    /// A workspace, with its masks. Its rule for Landlock sits on the directory that holds it, so that it
    /// outlives what is mounted there later; at the root's top level on itself.
    pub fn workspace(&mut self, workspace: &Workspace, source: &Source) -> Result<(), Fault> {
        let path = workspace.path.as_str();
        let access = match workspace.mode {
            WorkspaceMode::Ro => Access::ReadExec,
            WorkspaceMode::Overlay | WorkspaceMode::Direct => Access::WriteExec,
        };
        self.held.clear();
        self.configurations = Configurations::default();
        let tree = match workspace.mode {
            WorkspaceMode::Direct => {
                source.tree.restrict(WRITABLE_EXEC, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
                None
            }
            WorkspaceMode::Ro => Some(view::of(self.root, &source.tree, self.owners, path)?),
            WorkspaceMode::Overlay => {
                self.held = self.hold(workspace, source)?;
                Some(self.overlay(source)?)
            }
        };
        self.root.attach(path, tree.as_ref().unwrap_or(&source.tree), true, access)?;
        if let Some(parent) = workspace.path.parent().filter(|p| p.as_str() != "/") {
            self.root.access.push((parent.as_str().to_owned(), access));
        }
        if workspace.mode != WorkspaceMode::Ro && mount::is_read_only(path).at(Step::Workspace, path)? {
            return Err(Fault::unfit(Step::Workspace, path, "the kernel mounted it read-only"));
        }
        let report = self.search(workspace)?;
        for (name, count) in &report.unfound {
            self.found.push((format!("{path}/{name}"), Finding::Links(*count)));
        }
        self.made.clear();
        self.cover(workspace, source, &report)?;
        match &source.upper {
            Some(upper) => self.describe(source, &upper.directory),
            None => Ok(()),
        }
    }

    /// Looks for what is to be covered besides the names of the plan.
    fn search(&mut self, workspace: &Workspace) -> Result<Report, Fault> {
        let path = workspace.path.as_str();
        if workspace.mode != WorkspaceMode::Direct {
            if workspace.mask.is_empty() && workspace.mask_anywhere.is_empty() {
                return Ok(Report::default());
            }
            // Only names are looked at, by the agent's rights: that needs no process of its own.
            let top = mount::place(path).at(Step::Search, path)?;
            let agent = FsIds::assume(self.lease.agent.get());
            let report = scout::names(workspace, top.as_fd(), self.lease.agent.get());
            drop(agent);
            return report.map_err(Fault::Refused);
        }
        let tree =
            Tree::copy_of(mount::place(path).at(Step::Search, path)?.as_fd()).at(Step::Search, path)?;
        let groups: Vec<u32> =
            self.lease.groups(&self.owner.groups).iter().map(|(_, leased)| leased.get()).collect();
        let copies = rustix::fs::memfd_create("git", MemfdFlags::CLOEXEC).at(Step::Search, path)?;
        let commission = Commission {
            workspace,
            copies: copies.as_fd(),
            groups: &groups,
            tree: &tree,
            agent: self.lease.agent.get(),
            cgroup: self.helpers,
            empty_root: self.host.empty_root.as_fd(),
            filter: &self.host.keeper_filter,
            token: self.token,
        };
        let (said, scout) = commission.run().at(Step::Search, path)?;
        self.scouts.extend(scout);
        match said {
            FromScout::Report(report) => {
                let parts = report.configurations.iter().map(|own| (own.path.as_str().to_owned(), own.part));
                self.configurations = Configurations { file: Some(copies), parts: parts.collect() };
                Ok(report)
            }
            FromScout::Refused(refusal) => Err(Fault::Refused(refusal)),
            FromScout::Found(..) => Err(Fault::unfit(Step::Search, path, "an unexpected answer")),
        }
    }

    /// Gives masked names that are missing at the top of `source` to the host's placeholder, in the upper directory.
    /// Where that cannot be (another file system or project, too many names), they are made when they are covered.
    fn hold(&self, workspace: &Workspace, source: &Source) -> Result<BTreeSet<String>, Fault> {
        let path = workspace.path.as_str();
        let own = source.upper.as_ref().ok_or_else(|| Fault::unfit(Step::Overlay, path, "no upper"))?;
        let agent = FsIds::assume(self.lease.agent.get());
        let at_top = workspace.mask.iter().map(RelPath::as_str).filter(|name| !name.contains('/'));
        let missing = |name: &&str| open_beneath(source.tree.as_fd(), name).err() == Some(Errno::NOENT);
        let missing: Vec<_> = at_top.filter(missing).collect();
        drop(agent);
        let held = missing.into_iter().filter(|name| {
            let name = format!("upper/{name}");
            let linked = linkat(&self.host.placeholder, "", &own.directory, name, AtFlags::EMPTY_PATH);
            linked.is_ok()
        });
        Ok(held.map(str::to_owned).collect())
    }

    /// Writes down, where only root does, what the overlay is of, and what in it is no change of the agent's.
    fn describe(&self, source: &Source, own: &OwnedFd) -> Result<(), Fault> {
        let top = Directory { device: source.stat.st_dev, inode: source.stat.st_ino };
        let about = About::encode(&source.path, top, self.made.iter().map(String::as_str));
        super::etc::file(own.as_fd(), About::NAME, &about)
    }

    /// A directory or file to read.
    pub fn input(&mut self, source: &Source) -> Result<(), Fault> {
        let path = source.path.as_str();
        let Some(name) = &source.name else {
            let tree = view::of(self.root, &source.tree, self.owners, path)?;
            return self.root.attach(path, &tree, true, Access::ReadExec);
        };
        let tree = view::of_file(self.root, (&source.tree, name), &source.stat, self.owners, path)?;
        let access = if source.stat.st_mode & 0o111 == 0 { Access::Read } else { Access::ReadExec };
        self.root.attach(path, &tree, false, access)
    }

    /// Copy-on-write: what is written goes to an upper directory of the session.
    fn overlay(&mut self, source: &Source) -> Result<Tree, Fault> {
        let path = source.path.as_str();
        let own = source.upper.as_ref().ok_or_else(|| Fault::unfit(Step::Overlay, path, "no upper"))?;
        source.tree.restrict(PROGRAMS, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
        own.tree.restrict(WRITABLE_EXEC, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
        let attributes = WRITABLE_EXEC.within(source.tree.as_fd()).at(Step::Overlay, path)?;
        let mounter = FsIds::of_mounter(self.owner, self.lease.agent.get()).at(Step::Overlay, path)?;
        let overlay = of_descriptors(source, own, attributes);
        drop(mounter);
        if let Ok(overlay) = overlay {
            return Ok(overlay);
        }
        // An older kernel wants names; what is wrong with a layer it says again.
        let lower = view::layer(self.root, "lower", &source.tree)?;
        let upper = view::layer(self.root, "upper", &own.tree)?;
        let writes = format!("{upper}{}", own.path);
        let (writes, works) = (format!("{writes}/upper"), format!("{writes}/work"));
        let named = [("lowerdir", lower.as_str()), ("upperdir", &writes), ("workdir", &works)];
        let options: Vec<_> = named.into_iter().chain(COPY_ON_WRITE).collect();
        let mounter = FsIds::of_mounter(self.owner, self.lease.agent.get()).at(Step::Overlay, path)?;
        let overlay = Tree::new("overlay", &options, attributes).map_err(|e| cannot_layer(path, e));
        drop(mounter);
        mount::detach(&lower).at(Step::Overlay, &lower)?;
        mount::detach(&upper).at(Step::Overlay, &upper)?;
        overlay
    }
}

/// An overlay over `source` that writes to `own`, without a name of either.
fn of_descriptors(source: &Source, own: &Upper, attributes: Attributes) -> Result<Tree, MountError> {
    let open = |tree: &Tree, path: &str| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(tree, path, flags, Mode::empty()).map_err(|e| MountError::new("open layer", e))
    };
    let of_own = |name: &str| open(&own.tree, &format!(".{}/{name}", own.path));
    let (lower, upper, work) = (open(&source.tree, ".")?, of_own("upper")?, of_own("work")?);
    let layers = [("lowerdir+", lower.as_fd()), ("upperdir", upper.as_fd()), ("workdir", work.as_fd())];
    Tree::of_layers("overlay", &layers, &COPY_ON_WRITE, attributes)
}
