//! What the launcher prepares once, for all sessions.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_kernel::seccomp::{self, Filter};
use agentd_kernel::{idmap, procfs};
use agentd_policy::lease::Pool;
use agentd_policy::limits::DiskForm;
use agentd_policy::mode;
use agentd_policy::plan::Plan;
use nix::sched::CloneFlags;
use rustix::fs::{FileType, Mode, OFlags};

use crate::cpus::Cpus;
use crate::error::{HostError, On as _};
use crate::image;
use crate::order::Owner;
use crate::public_etc::PublicEtc;

/// Its name in the directory of overlays.
const PLACEHOLDER: &str = "placeholder";

/// Handles that every build uses.
#[derive(Debug)]
pub struct Host {
    /// The host's /proc.
    pub proc: OwnedFd,
    /// A mount namespace with an empty, read-only root.
    pub empty_root: OwnedFd,
    /// A network namespace without an interface that is up.
    pub empty_net: OwnedFd,
    /// A user namespace that is the id map of what the system owns.
    pub system: OwnedFd,
    /// The relay's program.
    pub relay: OwnedFd,
    /// What makes the file systems of images, if sessions have such.
    pub mke2fs: Option<OwnedFd>,
    /// What stands for missing names in overlays: another name of it needs no file of its own, and says whose it is.
    pub placeholder: OwnedFd,
    /// Whether and how sessions can see the CPUs.
    pub cpus: Cpus,
    /// What the host gives to each /etc.
    pub etc: PublicEtc,
    /// The filters of everything that runs in a session, compiled once.
    pub agent_filters: AgentFilters,
    /// The filter of keepers.
    pub keeper_filter: Filter,
    /// The filter of meters.
    pub meter_filter: Filter,
    /// The filter of keepers of sessions that have egress.
    pub dialler_filter: Filter,
}

impl Host {
    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let all =
            [&self.proc, &self.empty_root, &self.empty_net, &self.system, &self.relay, &self.placeholder];
        all.into_iter().chain(&self.mke2fs).map(AsFd::as_fd).chain(self.etc.descriptor()).collect()
    }

    /// Prepares everything. `overlays` is the directory of all overlays.
    pub fn prepare(
        token: SingleThreaded,
        pool: &Pool,
        form: DiskForm,
        overlays: BorrowedFd<'_>,
    ) -> Result<Self, HostError> {
        let proc = procfs::open().on("/proc")?;
        let ids = idmap::system(pool);
        let system =
            idmap::namespace(token, proc.as_fd(), &ids, &ids).on("user namespace of the system's files")?;
        let empty_root = held(token, &proc, "mnt", || {
            mount::new_namespace()?;
            // The copy of the host's mounts is still shared with the host.
            rustix::mount::mount_change(
                "/",
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
            )
            .on("private")?;
            let root = Tree::tmpfs(4096, 0, 0o555, Attributes::WRITABLE)?;
            mount::become_root(&root)?;
            Ok(mount::seal(root.as_fd())?)
        })?;
        let empty_net = held(token, &proc, "net", || Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?))?;
        // Pid namespaces can refuse executable memfds from Linux 6.3 on; else the filter refuses all.
        let memfd_noexec = std::path::Path::new("/proc/sys/vm/memfd_noexec").exists();
        Ok(Self {
            empty_root,
            empty_net,
            system,
            relay: sibling("agentd-relay")?,
            mke2fs: (form == DiskForm::Image)
                .then(|| image::program(image::PROGRAM, "e2fsprogs"))
                .transpose()?,
            placeholder: placeholder(overlays).on(format_args!("overlays/{PLACEHOLDER}"))?,
            etc: PublicEtc::prepare(token, pool.system().get()),
            cpus: Cpus::find(proc.as_fd())?,
            agent_filters: AgentFilters::compile(memfd_noexec),
            keeper_filter: helper(&seccomp::KEEPER),
            meter_filter: helper(&seccomp::METER),
            dialler_filter: helper(&seccomp::DIALLER),
            proc,
        })
    }
}

/// What agents may call, by what they may write to.
#[derive(Debug)]
pub struct AgentFilters {
    /// Nothing that stays on the host as it was written: overlays and memory.
    apart: Filter,
    /// A directory of the host's too.
    direct: Filter,
}

impl AgentFilters {
    fn compile(memfd_create: bool) -> Self {
        let of = |set_gid| seccomp::compile(&seccomp::AGENT, seccomp::Options { memfd_create, set_gid });
        Self { apart: of(true), direct: of(false) }
    }

    /// The one for a session of `owner`'s.
    pub fn of(&self, plan: &Plan, owner: &Owner) -> Filter {
        let direct = plan.workspaces.iter().any(|workspace| workspace.mode == mode::Mode::Direct);
        let filter = if direct { &self.direct } else { &self.apart };
        filter.clone().with_ids(owner.uid, owner.gid)
    }

    /// The one that allows least.
    pub fn strictest(&self) -> &Filter {
        &self.direct
    }
}

/// The filter of one of agentd's own processes.
fn helper(table: &seccomp::Table) -> Filter {
    seccomp::compile(table, seccomp::Options { memfd_create: false, set_gid: false })
}

/// The socket at [`PLACEHOLDER`], which nobody listens at and nobody but root may open.
fn placeholder(overlays: BorrowedFd<'_>) -> Result<OwnedFd, rustix::io::Errno> {
    match rustix::fs::mknodat(overlays, PLACEHOLDER, FileType::Socket, Mode::empty(), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(overlays, PLACEHOLDER, flags, Mode::empty())
}

/// Opens the program `name` that lies beside this one.
pub fn sibling(name: &str) -> Result<OwnedFd, HostError> {
    let own = std::env::current_exe().on("/proc/self/exe")?;
    let path = own.with_file_name(name);
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on(path.display())
}

/// A namespace of `kind` that a short-lived child makes by `make`, held by its descriptor.
fn held(
    token: SingleThreaded,
    proc: &OwnedFd,
    kind: &str,
    make: impl FnOnce() -> Result<(), HostError>,
) -> Result<OwnedFd, HostError> {
    let (ready, answering) = std::io::pipe()?;
    let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let answer = match make() {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        if std::io::Write::write_all(&mut &answering, answer.as_bytes()).is_err() {
            return 1;
        }
        nix::unistd::pause();
        0
    })?;
    drop(answering);
    let mut answer = [0; 512];
    let count = std::io::Read::read(&mut &ready, &mut answer)?;
    let path = format!("{}/ns/{kind}", child.pid.as_raw_nonzero());
    let opened = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    child.kill().and_then(|()| child.wait())?;
    let object = format!("{kind} namespace");
    match &answer[..count] {
        b"ok" => opened.on(object),
        error => Err(HostError::unfit(String::from_utf8_lossy(error).into_owned()).on(object)),
    }
}
