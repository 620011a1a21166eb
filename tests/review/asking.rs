//! How a user asks for a review: agentctl's part of the conversation, or another one.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::Refusal;
use agentd_policy::names::{RelPath, SessionId};
use agentd_policy::offer::{FromClient, ToClient};
use agentd_policy::review::{Directory, Kept, Opened};
use agentd_policy::wire::{MAX_PACKET, decode_with, encode};
use agentd_tests::harness::{Session, User, World, as_user, patience};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longer than any answer takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// What was named, and the socket on which it goes on.
#[derive(Debug)]
pub struct Named {
    pub workspaces: Vec<(Kept, Vec<RelPath>)>,
    pub placeholder: Directory,
    pub socket: Packets,
}

/// What one workspace looks like.
#[derive(Debug)]
pub struct Views {
    pub upper: OwnedFd,
    pub merged: OwnedFd,
}

/// The id of a session of `user`'s.
pub fn id(world: &World, user: &User, session: &Session<'_>) -> SessionId {
    let events = world.events(user, session.name());
    SessionId::parse(events.first().expect("an event")["session"].as_str().expect("an id")).expect("an id")
}

/// Sends one question as `user`.
pub fn send(world: &World, user: &User, question: &FromClient) -> Packets {
    let path = world.daemon().runtime().join("offer.sock");
    let socket = as_user(user.uid, user.gid, &user.groups(), || {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok::<_, Errno>(socket)
    });
    let socket = socket.expect("a member may connect");
    set_socket_timeout(&socket, Timeout::Recv, Some(patience(ANSWER_TIMEOUT))).expect("a socket option");
    let socket = Packets::from_fd(socket);
    assert!(matches!(receive(&socket), (ToClient::Site(_), _)));
    socket.send(&encode(question).expect("a question"), &[]).expect("it is taken");
    socket
}

/// The next answer.
pub fn receive(socket: &Packets) -> (ToClient, Vec<OwnedFd>) {
    let packet = socket.receive(MAX_PACKET, 253).expect("an answer").expect("an answer");
    let (message, attached) = decode_with(&packet.bytes, packet.descriptors).expect("an answer");
    (message, attached.rest())
}

/// Asks for a review as `user`, up to where the workspaces are named.
pub fn ask(world: &World, user: &User, session: &SessionId) -> Result<Named, Refusal> {
    let socket = send(world, user, &FromClient::Review(session.clone()));
    let mut workspaces: Vec<(Kept, Vec<RelPath>)> = Vec::new();
    loop {
        match receive(&socket).0 {
            ToClient::Workspace(kept) => workspaces.push((*kept, Vec::new())),
            ToClient::Made(made) => workspaces.last_mut().expect("a workspace").1.extend(made),
            ToClient::Open(placeholder) => return Ok(Named { workspaces, placeholder, socket }),
            ToClient::Refused(refusal) => return Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

/// Asks for what `session` changed to be deleted.
pub fn discard(world: &World, user: &User, session: &SessionId) -> Result<(), Refusal> {
    match receive(&send(world, user, &FromClient::Discard(session.clone()))).0 {
        ToClient::Discarded => Ok(()),
        ToClient::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

impl Named {
    /// Goes on with these descriptors.
    pub fn offer(self, descriptors: &[OwnedFd]) -> Result<Vec<Views>, Refusal> {
        let opened = Opened { workspaces: u8::try_from(self.workspaces.len()).expect("few") };
        let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
        self.socket.send(&encode(&opened).expect("a message"), &borrowed).expect("it is taken");
        match receive(&self.socket) {
            (ToClient::Views(_), views) => {
                let mut views = views.into_iter();
                let mut next = || Some(Views { upper: views.next()?, merged: views.next()? });
                Ok(std::iter::from_fn(&mut next).collect())
            }
            (ToClient::Refused(refusal), _) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

/// The only workspace's views, as agentctl gets them.
#[track_caller]
pub fn views(world: &World, user: &User, session: &SessionId) -> Views {
    let named = ask(world, user, session).expect("a review");
    assert_eq!(named.workspaces.len(), 1);
    let top = directory(user, Path::new(named.workspaces[0].0.path.as_str()));
    named.offer(&[top]).expect("views").pop().expect("one")
}

/// Opens a directory as `user`.
#[track_caller]
pub fn directory(user: &User, path: &Path) -> OwnedFd {
    as_user(user.uid, user.gid, &user.groups(), || {
        rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("a directory of the user's")
    })
}

/// What `path` in a view holds, for `user`.
pub fn read(user: &User, view: &OwnedFd, path: &str) -> Result<String, Errno> {
    as_user(user.uid, user.gid, &user.groups(), || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(view, path, flags, Mode::empty())?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).expect("text");
        Ok(text)
    })
}

/// The names in a directory of a view, for `user`.
pub fn names(user: &User, view: &OwnedFd, path: &str) -> Result<Vec<OsString>, Errno> {
    as_user(user.uid, user.gid, &user.groups(), || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(view, path, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    })
}
