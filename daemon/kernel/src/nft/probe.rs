//! What only sessions with a network need, tried in a namespace of its own.

use std::io::IoSlice;

use nftnl::{Batch, Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table};

use super::NftError;
use super::encode::{self, c_string};
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
    for expr in encode::transport(libc::IPPROTO_TCP).into_iter().chain(encode::transparent(1)) {
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
    crate::transparent::listener((std::net::Ipv4Addr::UNSPECIFIED, 0).into(), true)
        .map_err(|error| NftError::Refused { what: "IP_TRANSPARENT".into(), error })?;
    Ok(())
}
