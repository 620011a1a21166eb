//! Sockets of the host's programs, and families of sockets whose code an agent has no business in.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, EACCES, EAFNOSUPPORT, ECONNREFUSED, EINVAL, ENOENT, EPERM,
    EPROTONOSUPPORT, ESOCKTNOSUPPORT, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM,
};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys;

const NO: &[i32] = &[EPERM, EACCES, EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT];
const GONE: &[i32] = &[ENOENT];
const CODE: &str = "kernel code that few look at";
const ELSEWHERE: &str =
    "a test must not open sockets at the host's own paths; `socket_of_host` is the same act";

pub const CASES: &[Case] = &[
    case(
        "socket_abstract",
        abstract_socket,
        &["{abstract}"],
        &[ECONNREFUSED, EPERM],
        Outside::User,
        "a service that trusts every process that can name it",
    )
    .origin("CVE-2020-15257"),
    case("socket_of_host", socket, &["{host_socket}"], GONE, Outside::User, "any service of the caller's"),
    case(
        "socket_ssh_agent",
        socket_of_variable,
        &["SSH_AUTH_SOCK"],
        GONE,
        Outside::User,
        "the caller's ssh keys, without seeing them",
    ),
    case(
        "socket_session_bus",
        socket_of_variable,
        &["DBUS_SESSION_BUS_ADDRESS"],
        GONE,
        Outside::User,
        "programs outside, started by systemd's bus interface",
    )
    .origin("CVE-2017-5226 and the Flatpak advisories on the session bus"),
    case(
        "socket_system_bus",
        socket,
        &["/run/dbus/system_bus_socket"],
        GONE,
        Outside::Nowhere(ELSEWHERE),
        "polkit, systemd, NetworkManager",
    ),
    case(
        "socket_docker",
        socket,
        &["/var/run/docker.sock"],
        GONE,
        Outside::Nowhere(ELSEWHERE),
        "root on the host, by a container of our own",
    ),
    case(
        "socket_containerd",
        socket,
        &["/run/containerd/containerd.sock"],
        GONE,
        Outside::Nowhere(ELSEWHERE),
        "the same",
    ),
    case(
        "socket_journal",
        socket,
        &["/run/systemd/journal/stdout"],
        GONE,
        Outside::Nowhere(ELSEWHERE),
        "forged log lines",
    ),
    case(
        "socket_x11",
        socket,
        &["/tmp/.X11-unix/X0"],
        GONE,
        Outside::Nowhere(ELSEWHERE),
        "the caller's keyboard and screen",
    ),
    case(
        "socket_agentd",
        socket,
        &["{socket}"],
        GONE,
        Outside::User,
        "sessions without the limits of this one",
    ),
    case(
        "socket_offer",
        socket,
        &["{runtime}/offer.sock"],
        GONE,
        Outside::Nowhere("seqpacket; `socket_agentd` is the same act"),
        "descriptors for sessions of our own",
    ),
    case(
        "socket_in_input",
        socket,
        &["{input}/sock"],
        &[ECONNREFUSED, EACCES, EPERM],
        Outside::User,
        "a service whose socket lies in what may only be read",
    ),
    case(
        "socket_in_workspace",
        socket,
        &["{ws}/sock"],
        &[ECONNREFUSED, EACCES, EPERM],
        Outside::User,
        "a service whose socket lies in an overlay's lower layer",
    ),
    case("raw_icmp", family, &["inet", "raw", "1"], NO, Outside::Apart, "forged packets")
        .recorded_call("socket"),
    case("raw_ip", family, &["inet", "raw", "255"], NO, Outside::Apart, "forged packets")
        .recorded_call("socket"),
    case("raw_ipv6", family, &["inet6", "raw", "58"], NO, Outside::Apart, "forged packets")
        .recorded_call("socket")
        .host_may_lack(),
    case("packet_socket", family, &["packet", "raw", "0"], NO, Outside::Apart, "every packet")
        .recorded_call("socket")
        .origin("CVE-2017-7308, CVE-2020-14386")
        .host_may_lack(),
    case("packet_dgram", family, &["packet", "dgram", "0"], NO, Outside::Apart, "every packet")
        .recorded_call("socket")
        .host_may_lack(),
    case(
        "mptcp",
        family,
        &["inet", "stream", "262"],
        NO,
        Outside::User,
        "connections by paths that no TCP rule sees",
    )
    .recorded_call("socket")
    .host_may_lack(),
    case("sctp", family, &["inet", "stream", "132"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2019-8956")
        .host_may_lack(),
    case("dccp", family, &["inet", "6", "33"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2017-6074")
        .host_may_lack(),
    case("udplite", family, &["inet", "dgram", "136"], NO, Outside::User, "datagrams that no UDP rule sees")
        .recorded_call("socket")
        .host_may_lack(),
    case("smc", family, &["43", "stream", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .host_may_lack(),
    case("vsock", family, &["40", "stream", "0"], NO, Outside::User, "the hypervisor's services")
        .recorded_call("socket")
        .origin("CVE-2021-26708")
        .host_may_lack(),
    case("alg", family, &["38", "seqpacket", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .host_may_lack(),
    case("xdp", family, &["44", "raw", "0"], NO, Outside::Apart, CODE)
        .recorded_call("socket")
        .host_may_lack(),
    case("tipc", family, &["30", "seqpacket", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2021-43267")
        .host_may_lack(),
    case("rds", family, &["21", "seqpacket", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2010-3904")
        .host_may_lack(),
    case("can", family, &["29", "raw", "1"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2021-34693")
        .host_may_lack(),
    case("bluetooth", family, &["31", "raw", "1"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2020-12351")
        .host_may_lack(),
    case("kcm", family, &["41", "dgram", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .host_may_lack(),
    case("ax25", family, &["3", "seqpacket", "0"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .host_may_lack(),
    case(
        "netlink_netfilter",
        family,
        &["netlink", "raw", "12"],
        NO,
        Outside::User,
        "the session's own firewall, and its bugs",
    )
    .recorded_call("socket")
    .origin("CVE-2022-32250, CVE-2023-32233, CVE-2024-1086")
    .host_may_lack(),
    case("netlink_xfrm", family, &["netlink", "raw", "6"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .origin("CVE-2017-7184")
        .host_may_lack(),
    case("netlink_audit", family, &["netlink", "raw", "9"], NO, Outside::User, "the host's audit stream")
        .recorded_call("socket")
        .host_may_lack(),
    case(
        "netlink_uevent",
        family,
        &["netlink", "raw", "15"],
        NO,
        Outside::User,
        "device events, and forged ones",
    )
    .recorded_call("socket")
    .host_may_lack(),
    case("netlink_diag", family, &["netlink", "raw", "4"], NO, Outside::User, "who is connected to whom")
        .recorded_call("socket")
        .origin("CVE-2013-1763")
        .host_may_lack(),
    case("netlink_generic", family, &["netlink", "raw", "16"], NO, Outside::User, CODE)
        .recorded_call("socket"),
    case(
        "netlink_connector",
        family,
        &["netlink", "raw", "11"],
        NO,
        Outside::User,
        "every fork and exec on the host",
    )
    .recorded_call("socket")
    .host_may_lack(),
    case("netlink_crypto", family, &["netlink", "raw", "21"], NO, Outside::User, CODE)
        .recorded_call("socket")
        .host_may_lack(),
];

fn abstract_socket(args: &[String]) -> Act {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(&args[0])?)?;
    Ok("connected".into())
}

pub fn socket(args: &[String]) -> Act {
    UnixStream::connect(&args[0])?;
    Ok("connected".into())
}

fn socket_of_variable(args: &[String]) -> Act {
    let Ok(value) = std::env::var(&args[0]) else {
        return Err(Refused::new(ENOENT, "not in the environment"));
    };
    socket(&[value.trim_start_matches("unix:path=").to_owned()])
}

fn family(args: &[String]) -> Act {
    let family = match args[0].as_str() {
        "inet" => AF_INET,
        "inet6" => AF_INET6,
        "packet" => AF_PACKET,
        "netlink" => AF_NETLINK,
        number => number.parse().expect("a family"),
    };
    let kind = match args[1].as_str() {
        "stream" => SOCK_STREAM,
        "dgram" => SOCK_DGRAM,
        "raw" => SOCK_RAW,
        "seqpacket" => SOCK_SEQPACKET,
        number => number.parse().expect("a type"),
    };
    let protocol: i32 = args[2].parse().expect("a protocol");
    match sys::call(libc::SYS_socket, [family.into(), kind.into(), protocol.into()]) {
        // The family's own code has looked at the arguments.
        Err(error) if error.raw_os_error() == Some(EINVAL) => Ok("let as far as the family".into()),
        other => Ok(format!("descriptor {}", other?)),
    }
}
