//! Opens the paths that a request names, with the user's own rights, and hands them to the launcher.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use agentd_kernel::offer::{self, Answer, Grant, MAX_ANSWER, Mode, Role};
use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_proto::v1::WantedPath;
use rustix::fs::{FileType, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::failure::Failure;

/// How long the launcher may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What the launcher holds for us as long as this lives.
#[derive(Debug)]
pub struct Offer {
    /// Names it in the request.
    pub ticket: [u8; 32],
    /// The paths as the kernel names them, in the order of the offer.
    pub paths: Vec<WantedPath>,
    _socket: Packets,
}

/// Opens `wanted` and offers it at `socket`.
///
/// # Errors
/// What cannot be opened or is no file and no directory; the launcher's refusal.
pub fn offer(socket: &str, mut wanted: Vec<WantedPath>) -> Result<Offer, Failure> {
    if wanted.len() > MAX_DESCRIPTORS {
        return Err(Failure::refused(
            format!("{} paths", wanted.len()),
            "offer.paths",
            format!("name at most {MAX_DESCRIPTORS} workspaces and inputs"),
        ));
    }
    let mut opened = Vec::with_capacity(wanted.len());
    for path in &mut wanted {
        let grant = grant(path)?;
        let fd = open(path, grant.role)?;
        path.path = name(&fd, path)?;
        opened.push((grant, fd));
    }
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("offer at {socket}: {error}"));
    let packets = connect(socket).map_err(|error| failed(&error))?;
    let borrowed: Vec<_> = opened.iter().map(|(grant, fd)| (*grant, fd.as_fd())).collect();
    offer::send(&packets, &borrowed).map_err(|error| failed(&error))?;
    let answer = match packets.receive(MAX_ANSWER, 0) {
        Ok(Some(packet)) => Answer::parse(&packet.bytes).map_err(|error| failed(&error))?,
        Ok(None) => return Err(failed(&"the launcher hung up")),
        Err(PacketError::WouldBlock) => return Err(failed(&"the launcher did not answer")),
        Err(error) => return Err(failed(&error)),
    };
    match answer {
        Answer::Ticket(ticket) => Ok(Offer { ticket, paths: wanted, _socket: packets }),
        Answer::Refused(what, rule, mend) => Err(Failure::refused(what, &rule, mend)),
    }
}

fn connect(socket: &str) -> std::io::Result<Packets> {
    let address = SocketAddrUnix::new(socket)?;
    let fd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER))?;
    set_socket_timeout(&fd, Timeout::Send, Some(ANSWER))?;
    rustix::net::connect(&fd, &address)?;
    Ok(Packets::from_fd(fd))
}

fn grant(path: &WantedPath) -> Result<Grant, Failure> {
    let role = match path.role.as_str() {
        "workspace" => Role::Workspace,
        "input" => Role::Input,
        other => return Err(Failure::failed(format!("agentd asks for a path as {other:?}"))),
    };
    let mode = match path.mode.as_str() {
        "ro" => Mode::Ro,
        "overlay" => Mode::Overlay,
        "direct" => Mode::Direct,
        other => return Err(Failure::failed(format!("agentd asks for a path in mode {other:?}"))),
    };
    Ok(Grant { role, mode })
}

/// Opens for reading, which proves the right to read. What is neither file nor directory is refused before
/// it is opened for more than its name, because opening a device can do things.
fn open(path: &WantedPath, role: Role) -> Result<OwnedFd, Failure> {
    let refused = |error: rustix::io::Errno| {
        Failure::refused(
            format!("{} {}: {}", path.role, path.path, std::io::Error::from(error)),
            &format!("{}.open", path.role),
            "name one that exists and that you may read",
        )
    };
    let flags = match role {
        Role::Workspace => OFlags::DIRECTORY,
        Role::Input => OFlags::NONBLOCK | OFlags::NOCTTY,
    };
    let mode = rustix::fs::Mode::empty();
    let check = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).map_err(refused)?;
        match (FileType::from_raw_mode(stat.st_mode), role) {
            (FileType::Directory, _) | (FileType::RegularFile, Role::Input) => Ok(()),
            (found, _) => Err(wrong_type(path, role, found)),
        }
    };
    check(&rustix::fs::open(path.path.as_str(), OFlags::PATH | OFlags::CLOEXEC, mode).map_err(refused)?)?;
    let fd = rustix::fs::open(path.path.as_str(), flags | OFlags::RDONLY | OFlags::CLOEXEC, mode)
        .map_err(refused)?;
    check(&fd)?;
    Ok(fd)
}

fn wrong_type(path: &WantedPath, role: Role, found: FileType) -> Failure {
    let (word, mend) = match role {
        Role::Workspace => ("workspace", "name a directory"),
        Role::Input => ("input", "name a regular file or a directory"),
    };
    let what = match found {
        FileType::RegularFile => "a regular file",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    };
    Failure::refused(format!("{word} {} is {what}", path.path), &format!("{word}.type"), mend)
}

/// The path of an open descriptor, as the kernel names it now.
fn name(fd: &OwnedFd, path: &WantedPath) -> Result<String, Failure> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|error| Failure::failed(format!("cannot learn the name of {}: {error}", path.path)))?;
    utf8(&link)
}

/// `path` as the API carries it.
///
/// # Errors
/// If it is not UTF-8.
pub fn utf8(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::refused(
            format!("path {}", path.display()),
            "path.utf8",
            "rename it, or go through a directory whose name is UTF-8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str, role: &str, mode: &str) -> WantedPath {
        WantedPath { path: path.into(), role: role.into(), mode: mode.into() }
    }

    #[test]
    fn only_files_and_directories_are_opened() {
        assert!(open(&wanted("/", "workspace", "ro"), Role::Workspace).is_ok());
        assert!(open(&wanted("/proc/self/status", "input", "ro"), Role::Input).is_ok());
        for (path, role) in [
            ("/dev/null", Role::Input),
            ("/dev/null", Role::Workspace),
            ("/proc/self/status", Role::Workspace),
        ] {
            let word = if role == Role::Input { "input" } else { "workspace" };
            let failure = open(&wanted(path, word, "ro"), role).unwrap_err();
            assert!(failure.to_string().contains(&format!("({word}.type)")), "{failure}");
        }
        let failure = open(&wanted("/nonexistent", "input", "ro"), Role::Input).unwrap_err();
        assert!(failure.to_string().contains("(input.open)"), "{failure}");
    }

    #[test]
    fn the_label_is_the_kernels_name() {
        let path = wanted("/proc/self/../../usr/./bin", "input", "ro");
        let fd = open(&path, Role::Input).unwrap();
        assert_eq!(name(&fd, &path).unwrap(), "/usr/bin");
    }

    #[test]
    fn unknown_roles_and_modes_are_not_guessed() {
        assert!(grant(&wanted("/", "workspace", "overlay")).is_ok());
        assert!(grant(&wanted("/", "owner", "ro")).is_err());
        assert!(grant(&wanted("/", "input", "")).is_err());
    }

    #[test]
    fn an_offer_gets_its_ticket() {
        let dir = std::env::temp_dir().join(format!("agentctl-offer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("offer.sock");
        let _ = std::fs::remove_file(&socket);
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let launcher = std::thread::spawn(move || {
            let peer = Packets::from_fd(rustix::net::accept(&listener).unwrap());
            let packet = peer.receive(offer::MAX_OFFER, MAX_DESCRIPTORS).unwrap().unwrap();
            let offered = offer::parse(packet).unwrap();
            peer.send(&Answer::Ticket([9; 32]).encode(), &[]).unwrap();
            offered.len()
        });
        let offer =
            super::offer(socket.to_str().unwrap(), vec![wanted("/usr/bin/..", "input", "ro")]).unwrap();
        assert_eq!((offer.ticket, offer.paths[0].path.as_str()), ([9; 32], "/usr"));
        assert_eq!(launcher.join().unwrap(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
