//! The session's /etc: a few generated files, over a copy of what is public in the host's.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use agentd_kernel::mount::{self, Tree};
use agentd_policy::names::{AbsPath, RelPath};
use agentd_policy::pattern::EXAMPLES;
use agentd_policy::plan::Plan;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Owner;
use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use super::paths::Sources;
use super::root::{EMPTY_DIR, READ_ONLY, Root, WRITABLE};
use super::view;

/// Where it is.
pub const PATH: &str = "/etc";

/// What is generated for each session.
const GENERATED: [&str; 7] =
    ["passwd", "group", "hostname", "hosts", "nsswitch.conf", "resolv.conf", "machine-id"];

/// The session's own files, before anything is known of it: what they say is written later, through the same descriptor.
/// `owner` is the id that shows as root's.
pub fn own(owner: u32) -> Result<Tree, Fault> {
    let tree = Tree::tmpfs(1 << 20, owner, 0o755, WRITABLE).at("etc", PATH)?;
    let _owner = FsIds::assume(owner);
    for name in GENERATED {
        file(tree.as_fd(), name, b"")?;
    }
    Ok(tree)
}

/// Places them, over the host's public files, at /etc. Where nothing of the host's was copied, over nothing.
pub fn place(root: &Root, own: &Tree, public: Option<&Tree>) -> Result<(), Fault> {
    let nothing = || Tree::copy_of_one(mount::place(EMPTY_DIR).at("etc", EMPTY_DIR)?.as_fd()).at("etc", PATH);
    let own = Tree::copy_of_one(own.as_fd()).at("etc", PATH)?;
    let public = match public {
        Some(public) => Tree::copy_of_one(public.as_fd()).at("etc", PATH)?,
        None => nothing()?,
    };
    let merged = view::merged(root, &own, &public, READ_ONLY)?;
    root.cover(PATH, &merged, true)
}

/// Makes places for what the caller has in /etc itself, and lays all of it over what is there. `owner` is the id that
/// shows as root's.
pub fn place_again(
    root: &Root,
    (own, owner): (&Tree, u32),
    public: Option<&Tree>,
    (plan, sources): (&Plan, &Sources),
) -> Result<(), Fault> {
    let named = sources.inputs.iter().map(|input| {
        let place = if input.name.is_some() { Place::File } else { Place::Directory };
        (&input.path, place)
    });
    let links = plan.inputs.iter().filter_map(|input| Some((input.link.as_ref()?, Place::Link(&input.path))));
    let inside: Vec<_> =
        named.chain(links).filter_map(|(path, place)| Some((in_etc(path)?, place))).collect();
    if inside.is_empty() {
        return Ok(());
    }
    let assumed = FsIds::assume(owner);
    for (name, place) in inside {
        make_place(own.as_fd(), name, place)?;
    }
    drop(assumed);
    place(root, own, public)
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
    let mut dir = etc.try_clone_to_owned().at("etc", name)?;
    let mut components = name.split('/').peekable();
    while let Some(component) = components.next() {
        if components.peek().is_none() {
            match &place {
                Place::File => return file(dir.as_fd(), component, b""),
                Place::Link(target) => {
                    return rustix::fs::symlinkat(target.as_str(), &dir, component).at("etc", name);
                }
                Place::Directory => {}
            }
        }
        match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("etc", name),
        }
        dir = rustix::fs::openat(&dir, component, flags, Mode::empty()).at("etc", name)?;
    }
    Ok(())
}

/// Says in the files of `own` what they speak of.
pub fn write_own(own: BorrowedFd<'_>, plan: &Plan, owner: Owner) -> Result<(), Fault> {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for (name, text) in GENERATED.into_iter().zip(generated(plan, owner)) {
        let fd = rustix::fs::openat(own, name, flags, Mode::empty()).at("etc", name)?;
        std::fs::File::from(fd).write_all(text.as_bytes()).at("etc", name)?;
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
    let mut dir = home.try_clone_to_owned().at("home", "git")?;
    for name in [".config", "git"] {
        // Where an input of the caller's is, nothing is made: then git refuses by name instead.
        let made = rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755));
        if made.is_err_and(|errno| errno != rustix::io::Errno::EXIST) {
            return Ok(());
        }
        let Ok(below) = rustix::fs::openat(&dir, name, flags, Mode::empty()) else { return Ok(()) };
        dir = below;
    }
    if let Err(Fault(refusal)) = file(dir.as_fd(), "ignore", (lines.join("\n") + "\n").as_bytes()) {
        tracing::debug!(error = %refusal, "git is not told of covered names");
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

/// `resolv.conf(5)`.
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
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).at("etc", name)?;
    std::fs::File::from(fd).write_all(bytes).at("etc", name)
}
