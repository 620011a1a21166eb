//! The session's /etc: a few generated files, over a copy of what is public in the host's.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_policy::names::{AbsPath, RelPath};
use agentd_policy::pattern::EXAMPLES;
use agentd_policy::plan::Plan;
use agentd_policy::step::Step;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use super::paths::Sources;
use super::root::{EMPTY_DIR, READ_ONLY, Root};
use super::view;
use crate::order::Owner;

/// Where it is.
pub const PATH: &str = "/etc";

/// What is generated for each session.
const GENERATED: [&str; 7] =
    ["passwd", "group", "hostname", "hosts", "nsswitch.conf", "resolv.conf", "machine-id"];

/// What the session's own files hold at most, in bytes, with what is copied where layers cannot be.
const SIZE: u64 = 64 << 20;
/// How deep a copy goes.
const MAX_DEPTH: u32 = 16;

/// The session's /etc.
#[derive(Debug)]
pub struct Etc {
    /// Its own files: until it is known what they say, they are empty.
    own: Tree,
    /// The id that shows as root's.
    owner: u32,
    /// Whether it is all of /etc: before Linux 6.15 a tree that is attached nowhere cannot be a layer for many, and the
    /// host's public files are copied.
    whole: bool,
}

impl Etc {
    /// Places the session's files over the host's `public` ones.
    pub fn place(root: &Root, owner: u32, public: Option<&Tree>) -> Result<Self, Fault> {
        let own = Tree::tmpfs(SIZE, owner, 0o755, Attributes::WRITABLE).at(Step::Etc, PATH)?;
        let assumed = FsIds::assume(owner);
        for name in GENERATED {
            file(own.as_fd(), name, b"")?;
        }
        drop(assumed);
        let mut etc = Self { own, owner, whole: false };
        if !etc.layer(root, public)? {
            etc.whole = true;
            let assumed = FsIds::assume(owner);
            if let Some(public) = public {
                copy(public.as_fd(), etc.own.as_fd(), MAX_DEPTH)?;
            }
            drop(assumed);
            root.cover(PATH, &etc.own, true)?;
        }
        Ok(etc)
    }

    /// Lays its own files and the host's over what is there; whether this kernel can.
    fn layer(&self, root: &Root, public: Option<&Tree>) -> Result<bool, Fault> {
        let Ok(own) = Tree::copy_of_one(self.own.as_fd()) else { return Ok(false) };
        let public = match public {
            Some(public) => Tree::copy_of_one(public.as_fd()).at(Step::Etc, PATH)?,
            None => Tree::copy_of_one(mount::place(EMPTY_DIR).at(Step::Etc, EMPTY_DIR)?.as_fd())
                .at(Step::Etc, PATH)?,
        };
        let merged = view::merged(root, &own, &public, READ_ONLY)?;
        root.cover(PATH, &merged, true)?;
        Ok(true)
    }

    /// Makes places for what the caller has in /etc itself.
    pub fn add(
        &self,
        root: &Root,
        public: Option<&Tree>,
        (plan, sources): (&Plan, &Sources),
    ) -> Result<(), Fault> {
        let named = sources.inputs.iter().map(|input| {
            let place = if input.name.is_some() { Place::File } else { Place::Directory };
            (&input.path, place)
        });
        let links =
            plan.inputs.iter().filter_map(|input| Some((input.link.as_ref()?, Place::Link(&input.path))));
        let inside: Vec<_> =
            named.chain(links).filter_map(|(path, place)| Some((in_etc(path)?, place))).collect();
        if inside.is_empty() {
            return Ok(());
        }
        let assumed = FsIds::assume(self.owner);
        for (name, place) in inside {
            make_place(self.own.as_fd(), name, place)?;
        }
        drop(assumed);
        match self.whole || self.layer(root, public)? {
            true => Ok(()),
            false => Err(Fault::unfit(Step::Etc, PATH, "its layers cannot be laid again")),
        }
    }

    /// Says in its own files what they speak of. Nothing can be changed from then on.
    pub fn write(&self, plan: &Plan, owner: Owner) -> Result<(), Fault> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for (name, text) in GENERATED.into_iter().zip(generated(plan, owner)) {
            let fd = rustix::fs::openat(&self.own, name, flags, Mode::empty()).at(Step::Etc, name)?;
            std::fs::File::from(fd).write_all(text.as_bytes()).at(Step::Etc, name)?;
        }
        match self.whole {
            true => mount::seal(self.own.as_fd()).at(Step::Etc, PATH),
            false => Ok(()),
        }
    }
}

/// Copies what is in `from`, which nobody else writes to, but for names that `to` has already.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(from, ".", flags, Mode::empty()).at(Step::Etc, PATH)?;
    for entry in Dir::new(listed).at(Step::Etc, PATH)? {
        let entry = entry.at(Step::Etc, PATH)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).at(Step::Etc, PATH)?;
        let made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth > 0 => {
                let made = rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o755));
                if made.is_ok() {
                    let [from, to] =
                        [from, to].map(|dir| rustix::fs::openat(dir, name, flags, Mode::empty()));
                    copy(from.at(Step::Etc, PATH)?.as_fd(), to.at(Step::Etc, PATH)?.as_fd(), depth - 1)?;
                }
                made
            }
            FileType::Symlink => rustix::fs::readlinkat(from, name, Vec::new())
                .and_then(|target| rustix::fs::symlinkat(target.as_c_str(), to, name)),
            FileType::RegularFile => copy_file(from, to, name, stat.st_mode),
            _ => Ok(()),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at(Step::Etc, &name.to_string_lossy()),
        }
    }
    Ok(())
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, mode: u32) -> rustix::io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut source = std::fs::File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
    let mode = Mode::from_raw_mode(mode & 0o755);
    let mut target = std::fs::File::from(rustix::fs::openat(to, name, write, mode)?);
    std::io::copy(&mut source, &mut target)
        .map(drop)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// `path` relative to /etc, if it is below.
fn in_etc(path: &AbsPath) -> Option<&str> {
    path.as_str().strip_prefix(PATH)?.strip_prefix('/')
}

/// What is made for an input.
enum Place<'a> {
    Directory,
    File,
    Link(&'a AbsPath),
}

fn make_place(etc: BorrowedFd<'_>, name: &str, place: Place<'_>) -> Result<(), Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = etc.try_clone_to_owned().at(Step::Etc, name)?;
    let mut components = name.split('/').peekable();
    while let Some(component) = components.next() {
        if components.peek().is_none() {
            match &place {
                Place::File => return file(dir.as_fd(), component, b""),
                Place::Link(target) => {
                    return rustix::fs::symlinkat(target.as_str(), &dir, component).at(Step::Etc, name);
                }
                Place::Directory => {}
            }
        }
        match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at(Step::Etc, name),
        }
        dir = rustix::fs::openat(&dir, component, flags, Mode::empty()).at(Step::Etc, name)?;
    }
    Ok(())
}

/// Has git pass over names that are covered, wherever they are: what covers them is no file to add. (What is tracked it
/// refuses to add, by name.) A home that has files of the caller's in that place keeps them.
pub fn write_ignored(home: BorrowedFd<'_>, agent: u32, plan: &Plan, made: &[String]) -> Result<(), Fault> {
    let masks = plan.workspaces.iter().flat_map(|w| w.mask.iter().map(RelPath::as_str));
    let literal = masks.chain(made.iter().map(String::as_str));
    let mut lines: Vec<String> = literal.filter_map(ignored).collect();
    lines.extend(plan.workspaces.iter().flat_map(|w| w.mask_anywhere.iter().map(ToString::to_string)));
    if lines.is_empty() {
        return Ok(());
    }
    lines.sort();
    lines.dedup();
    lines.extend(EXAMPLES.iter().map(|end| format!("!**/*{end}")));
    let _agent = FsIds::assume(agent);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = home.try_clone_to_owned().at(Step::Home, "git")?;
    for name in [".config", "git"] {
        // Where an input of the caller's is, nothing is made: then git refuses by name instead.
        let made = rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755));
        if made.is_err_and(|errno| errno != rustix::io::Errno::EXIST) {
            return Ok(());
        }
        let Ok(below) = rustix::fs::openat(&dir, name, flags, Mode::empty()) else { return Ok(()) };
        dir = below;
    }
    if let Err(fault) = file(dir.as_fd(), "ignore", (lines.join("\n") + "\n").as_bytes()) {
        tracing::debug!(error = %fault, "git does not ignore covered names");
    }
    Ok(())
}

/// A name as gitignore(5) has it.
fn ignored(name: &str) -> Option<String> {
    if name.contains('\n') {
        return None;
    }
    let mut line = String::from("**/");
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | ' ') {
            line.push('\\');
        }
        line.push(c);
    }
    Some(line)
}

/// What [`GENERATED`] says, in its order.
fn generated(plan: &Plan, owner: Owner) -> [String; GENERATED.len()] {
    let (name, home, shell, id) = (&plan.user, &plan.home, &plan.shell, &plan.session);
    let Owner { uid, gid, groups } = owner;
    let mut passwd = format!("{name}:x:{uid}:{gid}::{home}:{shell}\n");
    let mut group = format!("{name}:x:{gid}:\n");
    // The first line that fits is the one that counts: the caller's own name, whatever its number.
    if uid != 0 {
        passwd.push_str("root:x:0:0:root:/root:/usr/sbin/nologin\n");
    }
    if gid != 0 {
        group.push_str("root:x:0:\n");
    }
    // Names for what `id` and `groups` list: the host's own are none of the session's.
    for other in groups.iter().filter(|other| *other != 0 && *other != 65_534) {
        group.push_str(&format!("group{other}:x:{other}:{name}\n"));
    }
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    group.push_str("nogroup:x:65534:\n");
    // As machine-id(5) has it, and no other session's nor the host's.
    let machine: String = id.as_str().chars().cycle().take(32).collect();
    [
        passwd,
        group,
        format!("{id}\n"),
        format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.200.0.2 {id}\n"),
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        resolvers(plan),
        format!("{machine}\n"),
    ]
}

/// Whom programs ask for addresses: the relay, which needs a moment for what it has to ask for itself.
const RESOLVERS: &str = "nameserver 127.0.0.1\noptions timeout:6 attempts:2\n";

// `resolv.conf(5)`.
fn resolvers(plan: &Plan) -> String {
    let search = plan.egress.iter().flat_map(|egress| &egress.search);
    let search: Vec<String> = search.map(|domain| format!(" {domain}")).collect();
    match search.is_empty() {
        true => RESOLVERS.to_owned(),
        false => format!("{RESOLVERS}search{}\n", search.concat()),
    }
}

/// A new file, readable by everyone.
pub fn file(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<(), Fault> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).at(Step::Etc, name)?;
    std::fs::File::from(fd).write_all(bytes).at(Step::Etc, name)
}
