//! Netlink sockets (`netlink(7)`) as the session's network needs them: blocking calls that never wait,
//! since the kernel answers within the call that asks.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType,
};

/// Room for a batch and for its answers, one acknowledgement a message, each about a kilobyte of the
/// kernel's. With the usual 208 KiB a batch of some hundreds is committed and then answered with ENOBUFS.
const ROOM: usize = 4 << 20;
/// The longest datagram that the kernel makes when it dumps (`max_recvmsg_len` is at most 32 KiB).
const DATAGRAM: usize = 64 << 10;

/// `NETLINK_ROUTE`, which is 0: what a socket has if none is named.
pub(crate) const ROUTE: Option<Protocol> = None;
// `NETLINK_NETFILTER`
pub(crate) const NETFILTER: Option<Protocol> = Some(rustix::net::netlink::NETFILTER);

// `NETLINK_SOCK_DIAG`
pub(crate) const SOCK_DIAG: Option<Protocol> = Some(rustix::net::netlink::SOCK_DIAG);

/// A bound netlink socket, close-on-exec, of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The message with this sequence number was refused.
    #[error("message {sequence}: {error}")]
    Refused {
        /// The sequence number of its message.
        sequence: u32,
        /// The kernel's error for it.
        error: io::Error,
    },
    /// An answer is not what it should be.
    #[error("netlink answer {0}")]
    Answer(&'static str),
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

impl Netlink {
    /// Of the calling thread's network namespace.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(fd))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Buffers for a long batch and its answers, as large as anybody may have them (`net.core.wmem_max`):
    /// the caller has no capability on the host. A batch that finds no room fails in whole.
    pub(crate) fn make_room(&self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_send_buffer_size(&self.0, ROOM)?;
        Ok(rustix::net::sockopt::set_socket_recv_buffer_size(&self.0, ROOM)?)
    }

    /// Sends `pages` as one datagram. All of it has been carried out when this returns.
    pub(crate) fn send(&self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = pages.iter().map(|page| page.len()).sum();
        let mut control = SendAncillaryBuffer::default();
        let sent = retry(|| rustix::net::sendmsg(&self.0, pages, &mut control, SendFlags::empty()))?;
        if sent == length { Ok(()) } else { Err(io::Error::other("netlink message was sent in part")) }
    }

    /// The next datagram of the kernel, in `buffer`; `None` if there is none.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        loop {
            let mut control = RecvAncillaryBuffer::default();
            let mut slices = [IoSliceMut::new(buffer)];
            let got =
                match retry(|| rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::DONTWAIT))
                {
                    Ok(got) => got,
                    Err(Errno::AGAIN) => return Ok(None),
                    Err(errno) => return Err(errno.into()),
                };
            // Only the kernel has port 0; what others send is dropped.
            let sender = got.address.and_then(|address| SocketAddrNetlink::try_from(address).ok());
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            if got.flags.contains(ReturnFlags::TRUNC) {
                return Err(io::Error::other("netlink datagram is longer than the buffer"));
            }
            return Ok(Some(&buffer[..got.bytes]));
        }
    }

    /// Takes one acknowledgement for each of `expected` messages.
    pub(crate) fn acknowledged(&self, expected: usize) -> Result<(), NetlinkError> {
        let mut buffer = vec![0; DATAGRAM];
        let mut missing = expected;
        while missing > 0 {
            let datagram = self.receive(&mut buffer)?.ok_or(NetlinkError::Answer("is missing"))?;
            for message in messages(datagram) {
                let message = message?;
                if message.message_type() != NLMSG_ERROR {
                    return Err(NetlinkError::Answer("is not an acknowledgement"));
                }
                refusal(&message)?;
                missing = missing.checked_sub(1).ok_or(NetlinkError::Answer("comes twice"))?;
            }
        }
        Ok(())
    }

    /// Takes what is left of answers that nobody waits for any more: after a refusal, those to what came after it.
    pub(crate) fn drain(&self) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM];
        while self.receive(&mut buffer)?.is_some() {}
        Ok(())
    }

    /// Sends `request` and gives each of its `number` answers to `each`.
    pub(crate) fn ask_for(
        &self,
        request: &[u8],
        number: usize,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.send(&[IoSlice::new(request)])?;
        let mut buffer = vec![0; DATAGRAM];
        let mut missing = number;
        while missing > 0 {
            let datagram = self.receive(&mut buffer)?.ok_or(NetlinkError::Answer("is missing"))?;
            for message in messages(datagram) {
                let message = message?;
                if message.message_type() == NLMSG_ERROR {
                    refusal(&message)?;
                    return Err(NetlinkError::Answer("holds nothing"));
                }
                each(&message)?;
                missing = missing.checked_sub(1).ok_or(NetlinkError::Answer("comes twice"))?;
            }
        }
        Ok(())
    }

    /// Sends `request` and gives each message of the answer to `each`: all up to the end of a dump, or the
    /// one that was asked for.
    pub(crate) fn ask(
        &self,
        request: &[u8],
        dump: bool,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.send(&[IoSlice::new(request)])?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let datagram = self.receive(&mut buffer)?.ok_or(NetlinkError::Answer("is missing"))?;
            for message in messages(datagram) {
                let message = message?;
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        refusal(&message)?;
                        return Err(NetlinkError::Answer("holds nothing"));
                    }
                    _ if message.flags() & NLM_F_DUMP_INTR != 0 => {
                        return Err(NetlinkError::Answer("changed while it was read"));
                    }
                    _ => each(&message)?,
                }
                if !dump {
                    return Ok(());
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The messages of a datagram. After one that is malformed there is no next.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, NetlinkError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(Err(NetlinkError::Answer("is malformed")));
        };
        let (whole, rest) = bytes.split_at((message.length() as usize).min(bytes.len()));
        bytes = rest.get(whole.len().next_multiple_of(4) - whole.len()..).unwrap_or_default();
        Some(Ok(NetlinkBuffer::new(whole)))
    })
}

/// The error that an `NLMSG_ERROR` carries, if it is no acknowledgement.
fn refusal(message: &NetlinkBuffer<&[u8]>) -> Result<(), NetlinkError> {
    let code = message.payload().first_chunk().ok_or(NetlinkError::Answer("is malformed"))?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(NetlinkError::Refused {
            sequence: message.sequence_number(),
            error: io::Error::from_raw_os_error(code.saturating_neg()),
        }),
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
