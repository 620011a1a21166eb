//! What packages brought to /etc, by the package manager's own records: which file, and its digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use md5::Md5;
use sha2::{Digest as _, Sha256};

/// As much of a record as is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;
/// dpkg's: each package, and its configuration files as they were installed.
const DPKG: &str = "/var/lib/dpkg/status";
/// ucf's: files that packages made on installation.
const UCF: &str = "/var/lib/ucf/hashfile";
/// rpm, whose record is a database.
const RPM: &str = "/usr/bin/rpm";

/// A digest as a record has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digest {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

/// Files below /etc, by absolute path.
#[derive(Debug, Default)]
pub struct Packages(HashMap<String, Digest>);

impl Packages {
    /// All that this host's package managers know.
    pub fn read() -> Self {
        let mut all = Self::default();
        if let Some(text) = text(DPKG) {
            all.add_dpkg(&text);
        }
        if let Some(text) = text(UCF) {
            all.add_ucf(&text);
        }
        // A database that somebody has locked must not keep it beyond this process.
        let mut dump = Command::new("/usr/bin/timeout");
        dump.args(["-k", "1", "10", RPM, "-qa", "--configfiles", "--dump"]).env_clear();
        if Path::new(RPM).exists()
            && let Ok(output) = dump.stdin(Stdio::null()).stderr(Stdio::null()).output()
        {
            all.add_rpm(&String::from_utf8_lossy(&output.stdout));
        }
        all
    }

    /// Whether a package brought `path` with just this content.
    pub fn brought(&self, path: &str, content: &[u8]) -> bool {
        match self.0.get(path) {
            Some(Digest::Md5(digest)) => Md5::digest(content).as_slice() == digest,
            Some(Digest::Sha256(digest)) => Sha256::digest(content).as_slice() == digest,
            None => false,
        }
    }

    /// `Conffiles:` in deb-control(5)'s form: a path, a digest, and perhaps a word about it, one a line.
    fn add_dpkg(&mut self, text: &str) {
        let mut inside = false;
        for line in text.lines() {
            match line.strip_prefix(' ') {
                Some(entry) if inside => {
                    let mut words = entry.rsplitn(2, ' ');
                    let (last, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                    match digest(last) {
                        Some(found) => self.add(rest, found),
                        // `obsolete` and `remove-on-upgrade`: no package of today has it.
                        None => continue,
                    }
                }
                _ => inside = line == "Conffiles:",
            }
        }
    }

    /// A digest, two spaces and a path, one a line.
    fn add_ucf(&mut self, text: &str) {
        for (first, path) in text.lines().filter_map(|line| line.split_once("  ")) {
            if let Some(found) = digest(first) {
                self.add(path, found);
            }
        }
    }

    /// What `rpm --dump` says: path, size, time, digest, mode, owner, group and more.
    fn add_rpm(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (path, digest_of_it) = (words.next().unwrap_or_default(), words.nth(2).unwrap_or_default());
            if let Some(found) = digest(digest_of_it) {
                self.add(path, found);
            }
        }
    }

    fn add(&mut self, path: &str, digest: Digest) {
        if path.starts_with("/etc/") {
            self.0.insert(path.to_owned(), digest);
        }
    }
}

fn text(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn digest(hex: &str) -> Option<Digest> {
    fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if hex.len() != 2 * N || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
        }
        Some(bytes)
    }
    bytes(hex).map(Digest::Md5).or_else(|| bytes(hex).map(Digest::Sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e";
    const EMPTY_256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn files_of_packages() {
        let mut all = Packages::default();
        all.add_dpkg(&format!(
            "Package: npm\nConffiles:\n /etc/npmrc {EMPTY}\n /etc/a b {EMPTY}\n /etc/old {EMPTY} obsolete\n /usr/x {EMPTY}\n\
             Description: x\n /etc/described {EMPTY}\n\nPackage: other\nConffiles:\n /etc/new newconffile\n"
        ));
        all.add_ucf(&format!("{EMPTY}  /etc/php/8.2/mods-available/x.ini\nnonsense\n"));
        all.add_rpm(&format!("/etc/dnf/dnf.conf 0 1700000000 {EMPTY_256} 0100644 root root 1 0 0 X\nx y\n"));
        for path in ["/etc/npmrc", "/etc/a b", "/etc/php/8.2/mods-available/x.ini", "/etc/dnf/dnf.conf"] {
            assert!(all.brought(path, b""), "{path}");
            assert!(!all.brought(path, b"//registry.example/:_authToken=x\n"), "{path}");
        }
        for path in ["/etc/old", "/etc/described", "/etc/new", "/usr/x", "/etc"] {
            assert!(!all.brought(path, b""), "{path}");
        }
    }

    #[test]
    fn digests() {
        assert_eq!(digest(EMPTY), Some(Digest::Md5(Md5::digest(b"").into())));
        assert_eq!(digest(EMPTY_256), Some(Digest::Sha256(Sha256::digest(b"").into())));
        for bad in ["", "d4", "zz1d8cd98f00b204e9800998ecf8427e", "+41d8cd98f00b204e9800998ecf8427e"] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }
}
