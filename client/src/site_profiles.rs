//! The site's profiles, read by the client itself: files that nobody but root can have written.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use agentd_policy::Refusal;
use agentd_policy::library::Text;
use agentd_policy::names::{AbsPath, ProfileName};
use agentd_policy::profile::MAX_BYTES;
use agentd_policy::rule::Rule;
use rustix::fs::OFlags;

/// The site's profile `name`: `NAME.toml` of the first of `dirs` that has one.
///
/// # Errors
/// If it cannot be read, or somebody else than root could have written it.
pub fn find(dirs: &[AbsPath], name: &ProfileName) -> Result<Option<Text>, Refusal> {
    for dir in dirs {
        let label = format!("{dir}/{name}.toml");
        let path = Path::new(&label);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&label, &error)),
            Ok(_) => {}
        }
        return read(path).map_err(|error| match error {
            Error::Read(error) => unreadable(&label, &error),
            Error::Writable(what) => Refusal::new(
                format!("profile {label}: {what}"),
                Rule::ProfileOwner,
                "have the administrator make the file and each directory above it root's, and writable by root alone",
            ),
        })
        .map(|toml| Some(Text { label, toml }));
    }
    Ok(None)
}

/// Why a file is not taken.
enum Error {
    Read(io::Error),
    Writable(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(io::Error::from)?);
    if !file.metadata()?.is_file() {
        return Err(Error::Read(io::Error::other("is not a regular file")));
    }
    is_roots("it", file.metadata()?.uid(), file.metadata()?.mode())?;
    // Where it was found, and where it is: no name on either way is another's.
    let found = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    for way in [path, found.as_path()] {
        for above in way.ancestors().skip(1) {
            for real in above.canonicalize()?.ancestors() {
                let meta = real.symlink_metadata()?;
                is_roots(&real.display().to_string(), meta.uid(), meta.mode())?;
            }
        }
    }
    let mut toml = String::new();
    // One byte more than allowed, so that the reader of the text sees that it is too long.
    file.take(MAX_BYTES as u64 + 1).read_to_string(&mut toml)?;
    Ok(toml)
}

/// An access control list that lets others write shows in the group's bits (`acl(5)`).
fn is_roots(what: &str, uid: u32, mode: u32) -> Result<(), Error> {
    match (uid, mode & 0o022) {
        (0, 0) => Ok(()),
        (0, _) => Err(Error::Writable(format!("others than root may write to {what}"))),
        _ => Err(Error::Writable(format!("{what} belongs to uid {uid}"))),
    }
}

fn unreadable(label: &str, error: &io::Error) -> Refusal {
    Refusal::new(
        format!("profile {label}: {error}"),
        Rule::ProfileUnreadable,
        "have the administrator let everybody read it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_root_can_write_is_root_s() {
        assert!(is_roots("x", 0, 0o100_644).is_ok());
        assert!(is_roots("x", 0, 0o040_755).is_ok());
        for (uid, mode) in [(1000, 0o644), (0, 0o664), (0, 0o666), (0, 0o1777)] {
            assert!(is_roots("x", uid, mode).is_err(), "{uid} {mode:o}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_has_none() {
        let dirs = [AbsPath::parse("/nonexistent/profiles.d").unwrap()];
        assert!(find(&dirs, &ProfileName::parse("x").unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_file_below_a_directory_that_others_write_to_is_refused() {
        let dir = std::env::temp_dir().join(format!("agentctl-site-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("mine.toml"), "schema = 1").unwrap();
        let dirs = [AbsPath::parse(dir.to_str().unwrap()).unwrap()];
        let refusal = find(&dirs, &ProfileName::parse("mine").unwrap()).unwrap_err();
        assert_eq!(refusal.rule.name(), "profile.owner");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
