//! Opens the paths of a request with the user's own rights: those that the client itself decided on, and no others.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use agentd_policy::mode::Role;
use agentd_policy::names::AbsPath;
use agentd_policy::offer::{Grant, MAX_GRANTS};
use agentd_policy::request::Wanted;
use agentd_policy::rule::Rule;
use rustix::fs::{FileType, OFlags};

use crate::failure::Failure;
use crate::gitdirs;

/// Descriptors with their grants.
pub type Opened = Vec<(Grant, OwnedFd)>;

/// Opens each of `wanted`, but those of `git` that are open already; the same paths as the kernel names what was
/// opened.
///
/// # Errors
/// What cannot be opened, is no file and no directory, or belongs to a repository and is elsewhere by now.
pub fn open_all(wanted: &[Wanted], git: &mut gitdirs::Found) -> Result<(Opened, Vec<Wanted>), Failure> {
    if wanted.len() > MAX_GRANTS {
        return Err(Failure::refused(
            format!("{} paths", wanted.len()),
            Rule::OfferPaths,
            format!("name at most {MAX_GRANTS} workspaces and inputs"),
        ));
    }
    let (mut opened, mut named) = (Vec::with_capacity(wanted.len()), Vec::with_capacity(wanted.len()));
    for path in wanted {
        let of_git = git.has(&path.path);
        let fd = match git.take(&path.path) {
            Some(fd) => fd,
            None => open(path)?,
        };
        let found = name(&fd, path)?;
        // Nobody named it: where it leads to otherwise was not looked at.
        if of_git && found != path.path {
            return Err(Failure::refused(
                format!("{} is {found} by now", path.path),
                Rule::OfferMoved,
                "the repository changed while it was looked at; ask again",
            ));
        }
        named.push(Wanted { path: found, ..path.clone() });
        opened.push((Grant { role: path.role, mode: path.mode }, fd));
    }
    Ok((opened, named))
}

/// Opens for reading, which proves the right to read. What is neither file nor directory is refused before
/// it is opened for more than its name, because opening a device can do things.
fn open(path: &Wanted) -> Result<OwnedFd, Failure> {
    let word = path.role.as_str();
    let refused = |error: rustix::io::Errno| {
        Failure::refused(
            format!("{word} {}: {}", path.path, std::io::Error::from(error)),
            match path.role {
                Role::Workspace => Rule::WorkspaceOpen,
                Role::Input => Rule::InputOpen,
            },
            "name one that exists and that you may read",
        )
    };
    let flags = match path.role {
        Role::Workspace => OFlags::DIRECTORY,
        Role::Input => OFlags::NONBLOCK | OFlags::NOCTTY,
    };
    let mode = rustix::fs::Mode::empty();
    let check = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).map_err(refused)?;
        match (FileType::from_raw_mode(stat.st_mode), path.role) {
            (FileType::Directory, _) | (FileType::RegularFile, Role::Input) => Ok(()),
            (found, _) => Err(wrong_type(path, found)),
        }
    };
    check(&rustix::fs::open(path.path.as_str(), OFlags::PATH | OFlags::CLOEXEC, mode).map_err(refused)?)?;
    let fd = rustix::fs::open(path.path.as_str(), flags | OFlags::RDONLY | OFlags::CLOEXEC, mode)
        .map_err(refused)?;
    check(&fd)?;
    Ok(fd)
}

fn wrong_type(path: &Wanted, found: FileType) -> Failure {
    let word = path.role.as_str();
    let (rule, hint) = match path.role {
        Role::Workspace => (Rule::WorkspaceType, "name a directory"),
        Role::Input => (Rule::InputType, "name a regular file or a directory"),
    };
    let what = match found {
        FileType::RegularFile => "a regular file",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    };
    Failure::refused(format!("{word} {} is {what}", path.path), rule, hint)
}

/// The path of an open descriptor, as the kernel names it now.
fn name(fd: &OwnedFd, path: &Wanted) -> Result<AbsPath, Failure> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|error| Failure::failed(format!("cannot learn the name of {}: {error}", path.path)))?;
    Ok(AbsPath::parse(&utf8(&link)?).map_err(|error| error.refusal(Rule::PathName))?)
}

/// `path` as the API carries it.
///
/// # Errors
/// If it is not UTF-8.
pub fn utf8(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::refused(
            format!("path {}", path.display()),
            Rule::PathUtf8,
            "rename it, or go through a directory whose name is UTF-8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::mode::Mode;

    fn wanted(path: &str, role: Role) -> Wanted {
        Wanted { role, mode: Mode::Ro, path: AbsPath::parse(path).unwrap() }
    }

    #[test]
    fn only_files_and_directories_are_opened() {
        assert!(open(&wanted("/", Role::Workspace)).is_ok());
        assert!(open(&wanted("/proc/self/status", Role::Input)).is_ok());
        for (path, role) in [
            ("/dev/null", Role::Input),
            ("/dev/null", Role::Workspace),
            ("/proc/self/status", Role::Workspace),
        ] {
            let failure = open(&wanted(path, role)).unwrap_err();
            assert!(failure.to_string().contains(&format!("({}.type)", role.as_str())), "{failure}");
        }
        let failure = open(&wanted("/nonexistent", Role::Input)).unwrap_err();
        assert!(failure.to_string().contains("(input.open)"), "{failure}");
    }

    #[test]
    fn the_label_is_the_kernels_name() {
        let (opened, named) =
            open_all(&[wanted("/bin", Role::Input)], &mut gitdirs::Found::default()).unwrap();
        let real = Path::new("/bin").canonicalize().unwrap();
        assert_eq!((opened.len(), named[0].path.as_str()), (1, real.to_str().unwrap()));
    }
}
