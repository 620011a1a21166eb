//! What no session's table needs yet, tried in a namespace of its own.

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;

use nftnl::nftnl_sys as sys;
use nftnl::{Batch, Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table};

use super::NftError;
use super::encode::{Expr, REGISTER, c_string, tcp, word};
use super::rules::TABLE;
use crate::netlink::{self, Netlink, NetlinkError};

/// The priority of `mangle`, at which packets are given to transparent sockets.
const MANGLE: i32 = -150;

/// Makes a table with a rule that gives packets to a transparent socket (`tproxy to :1`) in the calling thread's
/// network namespace, and such a socket.
///
/// # Errors
/// [`NftError::Refused`] if the kernel cannot do that.
pub fn transparent() -> Result<(), NftError> {
    let table = Table::new(c_string(TABLE), ProtoFamily::Inet);
    let mut chain = Chain::new(c_string("probe"), &table);
    chain.set_hook(Hook::PreRouting, MANGLE);
    chain.set_type(ChainType::Filter);
    chain.set_policy(Policy::Accept);
    let mut rule = Rule::new(&chain);
    for expr in tcp().into_iter().chain(to_port(1)) {
        rule.add_expr(&expr);
    }
    let mut batch = Batch::new();
    batch.add(&table, MsgType::Add);
    batch.add(&chain, MsgType::Add);
    batch.add(&rule, MsgType::Add);
    let batch = batch.finalize();
    let socket = Netlink::open(netlink::NETFILTER).map_err(NftError::Netlink)?;
    let pages: Vec<_> = batch.iter().map(IoSlice::new).collect();
    socket.send(&pages).map_err(NftError::Netlink)?;
    match socket.acknowledged(batch.sequence_numbers().len()) {
        Err(NetlinkError::Refused { error, .. }) => {
            return Err(NftError::Refused { what: "rule `tproxy to :1`".into(), error });
        }
        result => result?,
    }
    let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).map_err(NftError::Netlink)?;
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int from `on`, which lives across the call and is as long as is said.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_TRANSPARENT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(NftError::Refused { what: "IP_TRANSPARENT".into(), error });
    }
    Ok(())
}

fn to_port(port: u16) -> [Expr; 2] {
    let register = REGISTER.to_ne_bytes().to_vec();
    let load = Expr(
        c"immediate",
        vec![
            (sys::NFTNL_EXPR_IMM_DREG, register.clone()),
            (sys::NFTNL_EXPR_IMM_DATA, port.to_be_bytes().to_vec()),
        ],
    );
    let give = Expr(
        c"tproxy",
        vec![
            (sys::NFTNL_EXPR_TPROXY_FAMILY, word(libc::NFPROTO_UNSPEC)),
            (sys::NFTNL_EXPR_TPROXY_REG_PORT, register),
        ],
    );
    [load, give]
}
