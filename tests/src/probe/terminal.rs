//! Terminals: what is typed into one reaches the process that reads from it.

use std::os::fd::{AsRawFd, OwnedFd};

use libc::{EACCES, EIO, EPERM};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg, Fork};

const NO: &[i32] = &[EPERM];
const TYPED: &str = "commands typed into the shell that started us";

pub const CASES: &[Case] = &[
    case("tiocsti", sti, &["0"], NO, Outside::Root, TYPED).recorded_call("ioctl").origin("CVE-2017-5226"),
    case("tiocsti_high_bits", sti, &["1"], NO, Outside::Root, TYPED)
        .recorded_call("ioctl")
        .origin("CVE-2019-10063"),
    case("tioclinux", linux, &["0"], NO, Outside::Nowhere("needs a virtual console"), TYPED)
        .recorded_call("ioctl")
        .origin("CVE-2023-28100"),
    case("tioclinux_high_bits", linux, &["1"], NO, Outside::Nowhere("needs a virtual console"), TYPED)
        .recorded_call("ioctl")
        .origin("CVE-2023-28100, CVE-2019-10063"),
    case(
        "host_terminals",
        other_terminals,
        &[],
        &[libc::ENOENT, EACCES],
        Outside::Nowhere("a host need not have an open terminal"),
        "the caller's terminal",
    ),
    case(
        "tiocsctty_steal",
        steal,
        &[],
        &[EPERM, EIO],
        Outside::Nowhere("root may do it"),
        "a controlling terminal that is another's",
    ),
    case(
        "tiocsti_session",
        sti_own,
        &[],
        &[EPERM, EACCES],
        Outside::Nowhere("there is no session outside"),
        TYPED,
    )
    .options(&["-t"])
    .origin("CVE-2017-5226"),
];

fn pty() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY,
    )?;
    Ok((master, slave))
}

/// A request as an attacker writes it: the kernel looks at the low half only.
fn request(number: u64, high: &str) -> Arg<'static> {
    let high = if high == "1" { 1 << 32 } else { 0 };
    Arg::Int((number | high).cast_signed())
}

fn sti(args: &[String]) -> Act {
    let (_master, slave) = pty()?;
    in_own_session(|| {
        rustix::process::ioctl_tiocsctty(&slave)?;
        sys::call(
            libc::SYS_ioctl,
            [slave.as_raw_fd().into(), request(libc::TIOCSTI, &args[0]), Arg::In(b"x")],
        )
    })
}

fn linux(args: &[String]) -> Act {
    /// `TIOCLINUX`: paste what is selected.
    const TIOCLINUX: u64 = 0x541c;
    let (_master, slave) = pty()?;
    in_own_session(|| {
        rustix::process::ioctl_tiocsctty(&slave)?;
        sys::call(libc::SYS_ioctl, [slave.as_raw_fd().into(), request(TIOCLINUX, &args[0]), Arg::In(&[3])])
    })
}

fn sti_own(_: &[String]) -> Act {
    sys::call(libc::SYS_ioctl, [0.into(), request(libc::TIOCSTI, "0"), Arg::In(b"x")])?;
    Ok("typed".into())
}

fn steal(_: &[String]) -> Act {
    let (_master, slave) = pty()?;
    let own = in_own_session(|| {
        rustix::process::ioctl_tiocsctty(&slave)?;
        // A second session asks for the same terminal, by force.
        match sys::fork()? {
            Fork::Child => {
                rustix::process::setsid().ok();
                let taken = sys::call(
                    libc::SYS_ioctl,
                    [slave.as_raw_fd().into(), libc::TIOCSCTTY.cast_signed().into(), 1.into()],
                );
                sys::exit(taken.err().and_then(|e| e.raw_os_error()).unwrap_or(0))
            }
            Fork::Parent(pid) => match libc::WEXITSTATUS(sys::wait(pid)?) {
                0 => Ok(0),
                errno => Err(std::io::Error::from_raw_os_error(errno)),
            },
        }
    });
    own.map(|_| "stolen".into())
}

fn other_terminals(_: &[String]) -> Act {
    let own: Vec<_> =
        (0..3).filter_map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()).collect();
    for entry in std::fs::read_dir("/dev/pts")?.flatten() {
        let path = entry.path();
        if entry.file_name() != "ptmx" && !own.contains(&path) {
            std::fs::OpenOptions::new().write(true).open(&path)?;
            return Ok(format!("{path:?}"));
        }
    }
    Err(Refused::new(libc::ENOENT, "none"))
}

/// In a child that leads a session, as a terminal can only become the controlling one of such.
fn in_own_session(act: impl FnOnce() -> std::io::Result<i64>) -> Act {
    match sys::fork()? {
        Fork::Child => {
            let result = rustix::process::setsid().map_err(Into::into).and_then(|_| act());
            sys::exit(result.err().map_or(0, |error| error.raw_os_error().unwrap_or(255)))
        }
        Fork::Parent(pid) => match libc::WEXITSTATUS(sys::wait(pid)?) {
            0 => Ok("done".into()),
            errno => Err(std::io::Error::from_raw_os_error(errno).into()),
        },
    }
}
