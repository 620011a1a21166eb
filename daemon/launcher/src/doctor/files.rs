//! File systems: id-mapped mounts wherever sessions need them, and an overlay as the build makes it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::idmap;
use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::process::SingleThreaded;
use agentd_policy::wire::{Check, Status};
use agentd_session::COPY_ON_WRITE;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::apart::apart;
use super::{Lack, ids, lack, verdict};
use crate::context::Context;
use crate::directories::Directories;
use crate::settings::Settings;
use crate::workers;

/// Somebody whose files are mapped: an id that is neither root's nor of the pool.
const SOMEBODY: u32 = 1000;
/// What the trial's directory is called, before a process id.
const PREFIX: &str = "doctor-";
/// How large the trial's tmpfs is.
const SIZE: u64 = 1 << 20;

/// Every file system that sessions of the user `uid` meet.
pub fn checks(token: SingleThreaded, cx: &Context, uid: u32) -> Vec<Check> {
    let (host, directories, settings) = (&cx.host, &cx.directories, &cx.settings);
    let pool = settings.config.pool.uids;
    let maps = pool.lease(0).ok_or_else(|| Lack::new("the pool is too small")).and_then(|lease| {
        let map = idmap::writable(SOMEBODY, &lease, &pool);
        let maps = idmap::namespace(token, host.proc.as_fd(), &map, &map)?;
        Ok((lease.agent.get(), maps))
    });
    let (agent, maps) = match maps {
        Ok(made) => made,
        Err(error) => {
            let impact = "no session runs: its files could not be given to a throwaway id";
            return vec![lack("idmap", Status::Missing, error, impact, "see the check namespaces")];
        }
    };
    let mut checks = id_maps(token, settings, uid, maps.as_fd());
    checks.push(verdict(
        "overlayfs",
        overlay(token, directories, settings, agent, maps.as_fd()),
        Status::Missing,
        "no session runs with a copy-on-write workspace, which is the default",
        "use a kernel of Linux 5.19 or later with CONFIG_OVERLAY_FS, and a state_dir on ext4, xfs or btrfs; \
         modprobe overlay",
    ));
    checks
}

/// Id-mapped mounts: of tmpfs, and of whatever state_dir, the user's home and /tmp lie on.
fn id_maps(token: SingleThreaded, settings: &Settings, uid: u32, maps: BorrowedFd<'_>) -> Vec<Check> {
    let refused = "workspaces and inputs of a file system that cannot be id-mapped are refused";
    let mounts = match Mounts::own() {
        Ok(mounts) => mounts,
        Err(error) => {
            let found = format!("/proc/self/mountinfo: {error}");
            let fix = "look at /proc/self/mountinfo of the launcher: each line is as proc(5) has it";
            return vec![lack("idmap", Status::Missing, found, refused, fix)];
        }
    };
    let state = settings.config.state_dir.as_str();
    let home = ids::home(uid).unwrap_or_else(|| "/home".to_owned());
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for path in [state, &home, "/tmp"] {
        // A file system may be far away and its server gone.
        if let Ok(kind) = apart(token, || kind_of(&mounts, path).ok_or_else(|| Lack::new(""))) {
            places.entry(kind).or_default().push(path);
        }
    }
    let mut checks = Vec::new();
    if !places.contains_key("tmpfs") {
        let tried = apart(token, || {
            let tree = Tree::tmpfs(SIZE, 0, 0o755, Attributes::WRITABLE)?;
            tree.restrict(Attributes::WRITABLE, Some(maps))?;
            Ok("for directories on a tmpfs".into())
        });
        let impact = "workspaces on a tmpfs, such as many a /tmp, are refused";
        checks.push(verdict("idmap.tmpfs", tried, Status::Reduced, impact, "use Linux 6.3 or later"));
    }
    for (kind, paths) in places {
        let tried = paths.iter().try_for_each(|path| {
            apart(token, || {
                let place = mount::place(path).map_err(|e| Lack::on(path, e))?;
                let tree = Tree::copy_of_one(place.as_fd()).map_err(|e| Lack::on(path, e))?;
                tree.restrict(Attributes::WRITABLE, Some(maps)).map_err(|e| Lack::on(path, e))?;
                Ok(String::new())
            })
            .map(drop)
        });
        let found = tried.map(|()| paths.join(" "));
        let needed = paths.contains(&state);
        let (without, impact) = if needed {
            (Status::Missing, "no session runs with a copy-on-write workspace, which is the default")
        } else {
            (Status::Reduced, "workspaces and inputs there are refused")
        };
        let fix = "use ext4, xfs, btrfs or (from Linux 6.3) tmpfs for these directories";
        checks.push(verdict(format!("idmap.{kind}"), found, without, impact, fix));
    }
    checks
}

/// The kind of the file system that `path` lies on: the innermost mount, and of those the last.
fn kind_of(mounts: &Mounts, path: &str) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point_bytes().len()).map(|mount| mount.kind().into_owned())
}

/// Makes an overlay as the build does, in the directory where sessions' own are, writes a file through it as an
/// agent, and looks whose it is on the disk.
fn overlay(
    token: SingleThreaded,
    directories: &Directories,
    settings: &Settings,
    agent: u32,
    maps: BorrowedFd<'_>,
) -> Result<String, Lack> {
    let name = format!("{PREFIX}{}", std::process::id());
    clear(token, directories, &name)?;
    let layers = prepare(&directories.trials, &name);
    let tried = layers.and_then(|layers| {
        let runtime = settings.config.runtime_dir.as_str();
        apart(token, || write_through(layers.as_fd(), runtime, agent, maps))
    });
    delete(token, directories, &name)?;
    tried
}

/// Deletes what trials left that were killed.
fn clear(token: SingleThreaded, directories: &Directories, own: &str) -> Result<(), Lack> {
    let entries = rustix::fs::Dir::read_from(&directories.trials)?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        if name == own || !std::path::Path::new("/proc").join(pid).exists() {
            delete(token, directories, &name)?;
        }
    }
    Ok(())
}

fn delete(token: SingleThreaded, directories: &Directories, name: &str) -> Result<(), Lack> {
    let worker = workers::delete(token, &directories.trials, name, None)?;
    Ok(worker.wait().map(drop)?)
}

/// A lower directory, and an upper one with its workshop, all of them [`SOMEBODY`]'s.
fn prepare(overlays: &OwnedFd, name: &str) -> Result<OwnedFd, Lack> {
    let fail = |errno: rustix::io::Errno| Lack::on(format_args!("overlays/{name}"), errno);
    let open = |dir: BorrowedFd<'_>, name: &str| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail)
    };
    rustix::fs::mkdirat(overlays, name, Mode::RWXU).map_err(fail)?;
    let dir = open(overlays.as_fd(), name)?;
    for below in ["lower", "upper", "upper/upper", "upper/work"] {
        rustix::fs::mkdirat(&dir, below, Mode::RWXU).map_err(fail)?;
        let owner = (Some(Uid::from_raw(SOMEBODY)), Some(Gid::from_raw(SOMEBODY)));
        rustix::fs::chownat(&dir, below, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    }
    Ok(dir)
}

fn write_through(
    layers: BorrowedFd<'_>,
    workshop: &str,
    agent: u32,
    maps: BorrowedFd<'_>,
) -> Result<String, Lack> {
    let copy = |name| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let source = rustix::fs::openat(layers, name, flags, Mode::empty())?;
        let layer = Tree::copy_of_one(source.as_fd())?;
        layer.restrict(Attributes::WRITABLE, Some(maps))?;
        Ok::<_, Lack>((name, layer))
    };
    // Copied here: a new mount namespace has other mounts.
    let copies = [copy("lower")?, copy("upper")?];
    mount::new_namespace()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let place = mount::place(workshop)?;
    let own = Tree::tmpfs(SIZE, 0, 0o755, Attributes::WRITABLE)?;
    own.attach(place.as_fd())?;
    for (name, layer) in copies {
        let at = format!("{workshop}/{name}");
        std::fs::create_dir(&at)?;
        let at = mount::place(&at)?;
        layer.attach(at.as_fd())?;
    }
    let [lower, upper, work] =
        ["lower", "upper/upper", "upper/work"].map(|name| format!("{workshop}/{name}"));
    let layers_of_it =
        [("lowerdir", lower.as_str()), ("upperdir", upper.as_str()), ("workdir", work.as_str())];
    let options: Vec<_> = layers_of_it.into_iter().chain(COPY_ON_WRITE).collect();
    let overlay = Tree::new("overlay", &options, Attributes::WRITABLE)?;
    write_as(agent, overlay.as_fd())?;
    let stat = rustix::fs::statat(layers, "upper/upper/file", AtFlags::SYMLINK_NOFOLLOW);
    match stat.map(|stat| stat.st_uid) {
        Ok(SOMEBODY) => {
            Ok("id-mapped layers, directories can be renamed; what is written is the caller's".into())
        }
        Ok(uid) => Err(Lack::new(format!("a file written through it belongs to uid {uid}"))),
        Err(errno) => Err(Lack::on("a file written through it", errno)),
    }
}

/// Makes a file as `agent` does, without root's rights over files.
fn write_as(agent: u32, dir: BorrowedFd<'_>) -> Result<(), Lack> {
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(agent));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(agent));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let written = rustix::fs::openat(dir, "file", flags, Mode::RUSR | Mode::WUSR)
        .and_then(|file| rustix::io::write(&file, b"x"));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
    match written {
        Ok(1) => Ok(()),
        other => Err(Lack::new(format!("writing as an agent: {other:?}"))),
    }
}
