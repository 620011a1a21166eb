//! Namespaces of the probe's own, as a weak container would have them: root with every capability, but
//! alone. Every address is local there, and servers answer on the ports that the network cases try.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use rustix::thread::UnshareFlags;

use super::sys::{self, Fork};

/// Enters them; returns in a child of their first process.
pub fn enter() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    sys::call(libc::SYS_unshare, [flags.bits().into()])?;
    follow()?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None)?;
    for line in ["link set lo up", "route add local default dev lo", "-6 route add local default dev lo"] {
        Command::new("ip").args(line.split(' ')).status()?;
    }
    for port in [53, 80, 443] {
        let tcp = TcpListener::bind(("::", port))?;
        let udp = UdpSocket::bind(("::", port))?;
        std::mem::forget((tcp, udp));
    }
    follow()
}

/// Goes on in a child; the parent waits for it and ends as it did.
fn follow() -> io::Result<()> {
    match sys::fork()? {
        Fork::Child => Ok(()),
        Fork::Parent(pid) => {
            let status = sys::wait(pid)?;
            sys::exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 4 })
        }
    }
}
