//! The session's /etc: a few generated files, copies of public ones of the host, and directories of it.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use agentd_policy::names::RelPath;
use agentd_policy::pattern::EXAMPLES;
use agentd_policy::plan::Plan;
use rustix::fs::{Mode, OFlags};

use super::Owner;
use super::fault::{At, Fault};
use super::fs_ids::FsIds;

/// Small public files that programs expect, copied when the launcher starts.
const COPIED: &[&str] = &[
    "bash.bashrc",
    "debian_version",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.conf",
    "mime.types",
    "profile",
    "protocols",
    "services",
    "shells",
    "timezone",
];
/// Public links, copied as links.
const LINKS: &[&str] = &["localtime", "mtab", "os-release", "redhat-release"];
/// Directories and files that are mounted read-only where the host has them.
pub const MOUNTED: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/java-17-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf.d",
    "/etc/pki",
    "/etc/ssl",
    "/etc/terminfo",
];
/// The longest file that is copied, in bytes.
const MAX_COPY: u64 = 64 << 10;

/// What the host gives to every session's /etc.
#[derive(Debug, Default)]
pub struct Template {
    files: Vec<(&'static str, Vec<u8>)>,
    links: Vec<(&'static str, std::ffi::OsString)>,
}

impl Template {
    /// Reads the host's files. What is not there, too long or no regular file is left out.
    pub fn read() -> Self {
        let mut template = Self::default();
        for name in COPIED {
            let path = format!("/etc/{name}");
            if let Ok(meta) = std::fs::symlink_metadata(&path)
                && meta.is_file()
                && meta.len() <= MAX_COPY
                && let Ok(bytes) = std::fs::read(&path)
            {
                template.files.push((name, bytes));
            }
        }
        for name in LINKS {
            if let Ok(target) = std::fs::read_link(format!("/etc/{name}")) {
                template.links.push((name, target.into_os_string()));
            }
        }
        template
    }

    /// Fills `etc`, an empty directory, with what is the same for all.
    pub fn write(&self, etc: BorrowedFd<'_>) -> Result<(), Fault> {
        for (name, bytes) in &self.files {
            file(etc, name, bytes)?;
        }
        for (name, target) in &self.links {
            rustix::fs::symlinkat(target.as_os_str(), etc, *name).at("etc", name)?;
        }
        Ok(())
    }
}

/// Adds the files that speak of one session.
pub fn write_own(etc: BorrowedFd<'_>, plan: &Plan, owner: Owner) -> Result<(), Fault> {
    for (name, text) in generated(plan, owner) {
        file(etc, name, text.as_bytes())?;
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

/// The files that speak of the session alone.
fn generated(plan: &Plan, owner: Owner) -> [(&'static str, String); 6] {
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
    [
        ("passwd", passwd),
        ("group", group),
        ("hostname", format!("{id}\n")),
        ("hosts", format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.200.0.2 {id}\n")),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".to_owned()),
        ("resolv.conf", resolvers(plan)),
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
