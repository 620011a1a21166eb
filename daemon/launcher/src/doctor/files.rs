//! File systems: id-mapped mounts wherever sessions need them, and an overlay as the build makes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::idmap;
use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::process::SingleThreaded;
use agentd_session::COPY_ON_WRITE;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::apart::{Lack, Tried, apart};
use super::unprivileged::files::{Facts, Place};
use crate::context::Context;
use crate::workers;

/// Somebody whose files are mapped: an id that is neither root's nor of the pool.
const SOMEBODY: u32 = 1000;
/// What the trial's directory is called.
const NAME: &str = "doctor";
/// How large the trial's tmpfs is.
const SIZE: u64 = 1 << 20;

/// Tries every file system that sessions of the user `uid` meet: of state_dir, the user's home and /tmp.
pub fn facts(token: SingleThreaded, cx: &Context, uid: u32) -> Tried<Facts> {
    let pool = cx.settings.config.pool.uids;
    let lease = pool.lease(0).ok_or_else(|| Lack::new("the pool is too small"))?;
    let map = idmap::writable(SOMEBODY, &lease, &pool);
    let maps = idmap::namespace(token, cx.host.proc.as_fd(), &map, &map)?;
    let maps = maps.as_fd();
    let mounts = Mounts::own()?;
    let home = home(uid).unwrap_or_else(|| "/home".to_owned());
    let places = [cx.settings.config.state_dir.as_str(), &home, "/tmp"];
    // A file system may be far away and its server gone.
    let place = |path: &str| {
        apart(token, || {
            let kind = kind_of(&mounts, path).ok_or_else(|| Lack::new("no such directory"))?;
            let mapped =
                mount::place(path).map_err(Lack::from).and_then(|place| map_copy(place.as_fd(), maps));
            Ok(Place { path: path.to_owned(), kind, mapped: mapped.map_err(|error| Lack::on(path, error)) })
        })
    };
    Ok(Facts {
        tmpfs: apart(token, || {
            let tree = Tree::tmpfs(SIZE, 0, 0o755, Attributes::WRITABLE)?;
            Ok(tree.restrict(Attributes::WRITABLE, Some(maps))?)
        }),
        overlay: overlay(token, cx, lease.agent.get(), maps),
        places: places.map(place).into_iter().filter_map(Result::ok).collect(),
    })
}

fn map_copy(place: BorrowedFd<'_>, maps: BorrowedFd<'_>) -> Tried<()> {
    Ok(Tree::copy_of_one(place)?.restrict(Attributes::WRITABLE, Some(maps))?)
}

/// Makes an overlay as the build does, in the directory where sessions' own are, writes a file through it as an
/// agent, and looks whose it is on the disk.
fn overlay(token: SingleThreaded, cx: &Context, agent: u32, maps: BorrowedFd<'_>) -> Tried<()> {
    let trials = &cx.directories.trials;
    // There is one doctor at a time; what is there is of one that was killed.
    let delete = || -> Tried<()> { Ok(workers::delete(token, trials, NAME, None)?.wait().map(drop)?) };
    delete()?;
    let tried = prepare(trials).and_then(|layers| {
        let runtime = cx.settings.config.runtime_dir.as_str();
        apart(token, || write_through(layers.as_fd(), runtime, agent, maps))
    });
    delete()?;
    tried
}

/// A lower directory, and an upper one with its workshop, all of them [`SOMEBODY`]'s.
fn prepare(overlays: &OwnedFd) -> Tried<OwnedFd> {
    let fail = |errno: rustix::io::Errno| Lack::on(format_args!("overlays/{NAME}"), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::mkdirat(overlays, NAME, Mode::RWXU).map_err(fail)?;
    let dir = rustix::fs::openat(overlays, NAME, flags, Mode::empty()).map_err(fail)?;
    for below in ["lower", "upper", "upper/upper", "upper/work"] {
        rustix::fs::mkdirat(&dir, below, Mode::RWXU).map_err(fail)?;
        let owner = (Some(Uid::from_raw(SOMEBODY)), Some(Gid::from_raw(SOMEBODY)));
        rustix::fs::chownat(&dir, below, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    }
    Ok(dir)
}

fn write_through(layers: BorrowedFd<'_>, workshop: &str, agent: u32, maps: BorrowedFd<'_>) -> Tried<()> {
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
        Ok(SOMEBODY) => Ok(()),
        Ok(uid) => Err(Lack::new(format!("a file written through it belongs to uid {uid}"))),
        Err(errno) => Err(Lack::on("a file written through it", errno)),
    }
}

/// Makes a file as `agent` does, without root's rights over files.
fn write_as(agent: u32, dir: BorrowedFd<'_>) -> Tried<()> {
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

/// The kind of the file system that `path` lies on: the innermost mount, and of those the last.
fn kind_of(mounts: &Mounts, path: &str) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point_bytes().len()).map(|mount| mount.kind().into_owned())
}

/// The home of the user `uid` as passwd(5) has it: no other source of accounts is asked by root.
fn home(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let home = home_in(&text, uid)?;
    home.starts_with('/').then(|| home.to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_of_a_user() {
        let passwd = "x\nroot:x:0:0::/root:/bin/sh\nlent:x:5:5:me:/home/l:/bin/sh\n";
        assert_eq!(home_in(passwd, 5), Some("/home/l"));
        assert_eq!(home_in(passwd, 7), None);
    }
}
