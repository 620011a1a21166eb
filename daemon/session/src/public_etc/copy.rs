//! Goes through /etc and copies what is public, with nothing but everybody's rights.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::packages::Packages;
use crate::error::{HostError, On as _};

const ETC: &str = "/etc";
/// The longest file that is copied, in bytes.
const MAX_FILE: u64 = 2 << 20;
/// How many names are looked at, and how deep.
const MAX_NAMES: usize = 50_000;
const MAX_DEPTH: usize = 12;

/// Made of the system's state, and public by what they are.
const FILES: &[&str] = &[
    "ca-certificates.conf",
    "debian_version",
    "default/locale",
    "ld.so.cache",
    "ld.so.conf",
    "locale.conf",
    "shells",
    "ssl/openssl.cnf",
    "timezone",
];
/// Directories of such.
const TREES: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "ld.so.conf.d",
    "pki/ca-trust",
    "pki/tls",
    "ssl/certs",
    "terminfo",
];
/// Links that are public wherever they lead.
const LINKS: &[&str] = &["localtime", "mtab", "os-release", "redhat-release", "system-release"];
/// What packages made out of a file of theirs without a record of it.
const MADE_OF: &[(&str, &str)] = &[("profile", "/usr/share/base-files/profile")];

/// Copies all of it into `top`, an empty directory.
///
/// # Errors
/// If the copy cannot be written. What cannot be read is not public, and left out.
pub fn all(top: BorrowedFd<'_>) -> Result<(), HostError> {
    rustix::process::umask(Mode::empty());
    let mut copy =
        Copy { top, packages: Packages::read(), copied: BTreeSet::new(), links: Vec::new(), left: MAX_NAMES };
    copy.directory(Path::new(""), MAX_DEPTH)?;
    copy.links()
}

struct Copy<'a> {
    top: BorrowedFd<'a>,
    packages: Packages,
    /// Files and directories that the copy has, relative to /etc.
    copied: BTreeSet<PathBuf>,
    /// Links that were met, with what they say.
    links: Vec<(PathBuf, PathBuf)>,
    left: usize,
}

impl Copy<'_> {
    fn directory(&mut self, dir: &Path, depth: usize) -> Result<(), HostError> {
        let Ok(entries) = std::fs::read_dir(Path::new(ETC).join(dir)) else { return Ok(()) };
        for entry in entries.flatten() {
            let Some(left) = self.left.checked_sub(1) else { return Ok(()) };
            self.left = left;
            let (name, Ok(kind)) = (dir.join(entry.file_name()), entry.file_type()) else { continue };
            if kind.is_dir() && depth > 0 {
                self.directory(&name, depth - 1)?;
            } else if kind.is_file() {
                self.file(&name)?;
            } else if kind.is_symlink()
                && let Ok(target) = std::fs::read_link(entry.path())
            {
                self.links.push((name, target));
            }
        }
        Ok(())
    }

    /// A regular file of root's that everybody may read, if it is one that sessions have.
    fn file(&mut self, name: &Path) -> Result<(), HostError> {
        let path = Path::new(ETC).join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()).map(File::from) else { return Ok(()) };
        let Ok(meta) = file.metadata() else { return Ok(()) };
        if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o004 == 0 || meta.len() > MAX_FILE {
            return Ok(());
        }
        let mut content = Vec::new();
        if file.take(MAX_FILE).read_to_end(&mut content).is_err() || !self.is_public(name, &path, &content) {
            return Ok(());
        }
        let parent = self.parent(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644 | meta.mode() & 0o111);
        let last = name.file_name().unwrap_or_default();
        let new = rustix::fs::openat(parent, last, flags, mode).on(path.display())?;
        File::from(new).write_all(&content).on(path.display())?;
        self.copied.insert(name.to_owned());
        Ok(())
    }

    /// Whether nobody can have written a secret into it.
    fn is_public(&self, name: &Path, path: &Path, content: &[u8]) -> bool {
        let made = |(of, source): &(&str, &str)| {
            name == Path::new(of) && std::fs::read(source).is_ok_and(|source| source == content)
        };
        // What bounds sessions is nothing that they need to know.
        if name.starts_with("agentd") {
            return false;
        }
        FILES.iter().any(|file| name == Path::new(file))
            || TREES.iter().any(|tree| name.starts_with(tree))
            || is_java(name)
            || MADE_OF.iter().any(made)
            || path.to_str().is_some_and(|path| self.packages.brought(path, content))
    }

    /// The directory that `name` is in, made with those above it.
    fn parent(&mut self, name: &Path) -> Result<OwnedFd, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = self.top.try_clone_to_owned().on(name.display())?;
        let mut walked = PathBuf::new();
        for component in name.parent().into_iter().flat_map(Path::components) {
            match rustix::fs::mkdirat(&dir, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).on(name.display()),
            }
            dir = rustix::fs::openat(&dir, component.as_os_str(), flags, Mode::empty()).on(name.display())?;
            walked.push(component);
            self.copied.insert(walked.clone());
        }
        Ok(dir)
    }

    /// Links to programs and public data, and to what was copied.
    fn links(&mut self) -> Result<(), HostError> {
        let mut links = std::mem::take(&mut self.links);
        // One may lead to another.
        while !links.is_empty() {
            let (now, later): (Vec<_>, Vec<_>) =
                links.into_iter().partition(|(name, to)| self.leads(name, to));
            if now.is_empty() {
                break;
            }
            for (name, target) in now {
                let parent = self.parent(&name)?;
                rustix::fs::symlinkat(&target, &parent, name.file_name().unwrap_or_default())
                    .on(name.display())?;
                self.copied.insert(name);
            }
            links = later;
        }
        Ok(())
    }

    /// Whether a link leads to what a session has.
    fn leads(&self, name: &Path, target: &Path) -> bool {
        let from = Path::new(ETC).join(name);
        let whole = normal(&from.parent().unwrap_or(&from).join(target));
        let inside = |whole: &Path| whole.strip_prefix(ETC).is_ok_and(|below| self.copied.contains(below));
        LINKS.iter().any(|link| name == Path::new(link)) || whole.starts_with("/usr") || inside(&whole)
    }
}

/// A JDK does not start without its own, whatever was changed in them.
fn is_java(name: &Path) -> bool {
    let first = name.components().next().and_then(|first| first.as_os_str().to_str());
    first.is_some_and(|first| first.starts_with("java-") && first.ends_with("-openjdk"))
}

/// Without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_what_is_there() {
        let here = File::open("/").unwrap();
        let copy = Copy {
            top: std::os::fd::AsFd::as_fd(&here),
            packages: Packages::default(),
            copied: [PathBuf::from("php/mods/x.ini")].into(),
            links: Vec::new(),
            left: 0,
        };
        for (name, target, leads) in [
            ("alternatives/vi", "/usr/bin/vim", true),
            ("php/conf.d/x.ini", "../mods/x.ini", true),
            ("php/conf.d/x.ini", "/etc/php/mods/x.ini", true),
            ("php/conf.d/y.ini", "../mods/y.ini", false),
            ("localtime", "/somewhere", true),
            ("x", "/root/secret", false),
            ("x", "../usr/../root/secret", false),
            ("systemd/wants/x", "/lib/systemd/x", false),
        ] {
            assert_eq!(copy.leads(Path::new(name), Path::new(target)), leads, "{name} -> {target}");
        }
        assert!(
            is_java(Path::new("java-21-openjdk/security/java.security")) && !is_java(Path::new("java/x"))
        );
    }
}
