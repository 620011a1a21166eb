//! From a [`Ruleset`] to the batch that makes it, with libnftnl.
//!
//! nftnl has typed expressions for some of nf_tables, and none for log, named counters and registers of
//! one's own choice. All go through its [`Expression`] trait instead, as a name and attributes, so that
//! there is one way to write them; what the kernel made of them is read back in any case.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, CString, c_void};
use std::net::Ipv4Addr;
use std::ptr::NonNull;

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use nftnl::{Batch, Chain, ChainType, FinalizedBatch, MsgType, NlMsg, ProtoFamily, Rule, Table};

use super::rules::{ChainSpec, DENIED, Match, RuleSpec, Ruleset, Statement, TABLE};
use super::{readback, sets};
use crate::width::{at_most, byte};

// Of linux/netfilter/nf_tables.h; libc has none of these.
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFTA_COUNTER_PACKETS: u16 = 2;
/// `NFT_REG_1`, of 16 bytes.
pub(super) const REGISTER: u32 = libc::NFT_REG_1 as u32;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// An expression: its name, and its attributes by libnftnl's numbers, in libnftnl's widths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expr(pub(super) &'static CStr, pub(super) Vec<(u32, Vec<u8>)>);

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string. The caller owns what is returned.
        let expr = unsafe { sys::nftnl_expr_alloc(self.0.as_ptr()) };
        let Some(expr) = NonNull::new(expr) else { handle_alloc_error(Layout::new::<[u8; 64]>()) };
        for (attribute, value) in &self.1 {
            let data = value.as_ptr().cast::<c_void>();
            // An attribute that is not set is missing when the rule is read back.
            let Ok(attribute) = u16::try_from(*attribute) else { continue };
            // SAFETY: `expr` is valid; the value is as wide as libnftnl reads for this attribute, and is copied.
            unsafe { sys::nftnl_expr_set(expr.as_ptr(), attribute, data, at_most(value.len())) };
        }
        expr
    }
}

/// The batch that makes `ruleset`, and nothing if any message of it fails.
pub(super) fn batch(ruleset: &Ruleset) -> FinalizedBatch {
    let table = Table::new(c_string(TABLE), ProtoFamily::Inet);
    let mut batch = Batch::new();
    batch.add(&table, MsgType::Add);
    batch.add(&Counter(DENIED), MsgType::Add);
    for set in &ruleset.sets {
        batch.add(&sets::NewSet(*set), MsgType::Add);
    }
    let chains: Vec<_> = ruleset.chains.iter().map(|spec| chain(spec, &table)).collect();
    for chain in &chains {
        batch.add(chain, MsgType::Add);
    }
    for (spec, chain) in ruleset.chains.iter().zip(&chains) {
        for rule in &spec.rules {
            batch.add(&encode(rule, chain), MsgType::Add);
        }
    }
    batch.finalize()
}

fn chain<'t>(spec: &ChainSpec, table: &'t Table) -> Chain<'t> {
    let mut chain = Chain::new(c_string(spec.name), table);
    if let Some(base) = spec.base {
        chain.set_hook(base.hook, base.priority);
        chain.set_type(ChainType::Filter);
        chain.set_policy(base.policy);
    }
    chain
}

/// The batch that puts the rules of `spec` in the place of those that its chain holds.
pub(super) fn refill(spec: &ChainSpec) -> FinalizedBatch {
    let table = Table::new(c_string(TABLE), ProtoFamily::Inet);
    let chain = Chain::new(c_string(spec.name), &table);
    let mut batch = Batch::new();
    // Without a handle: all of them.
    batch.add(&Rule::new(&chain), MsgType::Del);
    for rule in &spec.rules {
        batch.add(&encode(rule, &chain), MsgType::Add);
    }
    batch.finalize()
}

fn encode<'c>(spec: &RuleSpec, chain: &'c Chain<'_>) -> Rule<'c> {
    let mut rule = Rule::new(chain);
    let matches = spec.matches.iter().flat_map(matching);
    for expr in matches.chain(spec.statements.iter().flat_map(statement)) {
        rule.add_expr(&expr);
    }
    rule
}

fn matching(what: &Match) -> Vec<Expr> {
    match what {
        Match::Daddr4(address, prefix) => {
            let mut exprs = family(libc::NFPROTO_IPV4);
            exprs.push(payload(libc::NFT_PAYLOAD_NETWORK_HEADER, 16, 4));
            let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
            if mask != u32::MAX {
                exprs.push(bitwise(&mask.to_be_bytes()));
            }
            exprs.push(compare(libc::NFT_CMP_EQ, &Ipv4Addr::from(u32::from(*address) & mask).octets()));
            exprs
        }
        Match::Daddr6(address, prefix) => {
            let mut exprs = family(libc::NFPROTO_IPV6);
            exprs.push(payload(libc::NFT_PAYLOAD_NETWORK_HEADER, 24, 16));
            let mask = u128::MAX.checked_shl(128 - u32::from(*prefix)).unwrap_or(0);
            if mask != u128::MAX {
                exprs.push(bitwise(&mask.to_be_bytes()));
            }
            exprs.push(compare(libc::NFT_CMP_EQ, &(u128::from(*address) & mask).to_be_bytes()));
            exprs
        }
        Match::Tcp => transport(libc::IPPROTO_TCP),
        Match::Udp => transport(libc::IPPROTO_UDP),
        Match::Dport(port) => vec![
            payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            compare(libc::NFT_CMP_EQ, &port.to_be_bytes()),
        ],
        Match::In(set) => sets::lookup(*set),
        Match::NotBareSyn => {
            let mut exprs = transport(libc::IPPROTO_TCP);
            exprs.push(payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1));
            exprs.push(bitwise(&[SYN | ACK]));
            exprs.push(compare(libc::NFT_CMP_NEQ, &[SYN]));
            exprs
        }
    }
}

fn statement(what: &Statement) -> Vec<Expr> {
    vec![match what {
        Statement::Accept => verdict(libc::NF_ACCEPT),
        Statement::Return => verdict(libc::NFT_RETURN),
        Statement::Jump(chain) => {
            let mut jump = verdict(libc::NFT_JUMP);
            jump.1.push((sys::NFTNL_EXPR_IMM_CHAIN, c_string(chain).into_bytes_with_nul()));
            jump
        }
        Statement::Log { prefix, group, snaplen } => Expr(
            c"log",
            vec![
                (sys::NFTNL_EXPR_LOG_PREFIX, c_string(prefix).into_bytes_with_nul()),
                (sys::NFTNL_EXPR_LOG_GROUP, group.to_ne_bytes().to_vec()),
                (sys::NFTNL_EXPR_LOG_SNAPLEN, snaplen.to_ne_bytes().to_vec()),
            ],
        ),
        Statement::Count(name) => Expr(
            c"objref",
            vec![
                (sys::NFTNL_EXPR_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER.to_ne_bytes().to_vec()),
                (sys::NFTNL_EXPR_OBJREF_IMM_NAME, c_string(name).into_bytes_with_nul()),
            ],
        ),
        Statement::Drop => verdict(libc::NF_DROP),
        Statement::Prohibit => {
            reject(libc::NFT_REJECT_ICMPX_UNREACH, byte(libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED))
        }
        Statement::Transparent(port) => return transparent(*port).into(),
    }]
}

fn verdict(code: libc::c_int) -> Expr {
    let attributes = vec![
        (sys::NFTNL_EXPR_IMM_DREG, word(libc::NFT_REG_VERDICT)),
        (sys::NFTNL_EXPR_IMM_VERDICT, word(code)),
    ];
    Expr(c"immediate", attributes)
}

/// Gives a packet of TCP to the socket that listens on `port`.
pub(super) fn transparent(port: u16) -> [Expr; 2] {
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

pub(super) fn family(number: libc::c_int) -> Vec<Expr> {
    vec![meta(libc::NFT_META_NFPROTO), compare(libc::NFT_CMP_EQ, &[byte(number)])]
}

pub(super) fn transport(protocol: libc::c_int) -> Vec<Expr> {
    vec![meta(libc::NFT_META_L4PROTO), compare(libc::NFT_CMP_EQ, &[byte(protocol)])]
}

fn meta(key: libc::c_int) -> Expr {
    meta_to(REGISTER, key)
}

pub(super) fn meta_to(register: u32, key: libc::c_int) -> Expr {
    let register = register.to_ne_bytes().to_vec();
    Expr(c"meta", vec![(sys::NFTNL_EXPR_META_KEY, word(key)), (sys::NFTNL_EXPR_META_DREG, register)])
}

fn payload(base: libc::c_int, offset: u32, length: u32) -> Expr {
    payload_to(REGISTER, base, offset, length)
}

pub(super) fn payload_to(register: u32, base: libc::c_int, offset: u32, length: u32) -> Expr {
    Expr(
        c"payload",
        vec![
            (sys::NFTNL_EXPR_PAYLOAD_DREG, register.to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_PAYLOAD_BASE, word(base)),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset.to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, length.to_ne_bytes().to_vec()),
        ],
    )
}

fn bitwise(mask: &[u8]) -> Expr {
    Expr(
        c"bitwise",
        vec![
            (sys::NFTNL_EXPR_BITWISE_SREG, REGISTER.to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_BITWISE_DREG, REGISTER.to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_BITWISE_LEN, at_most(mask.len()).to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_BITWISE_MASK, mask.to_vec()),
            (sys::NFTNL_EXPR_BITWISE_XOR, vec![0; mask.len()]),
        ],
    )
}

fn compare(operator: libc::c_int, value: &[u8]) -> Expr {
    Expr(
        c"cmp",
        vec![
            (sys::NFTNL_EXPR_CMP_SREG, REGISTER.to_ne_bytes().to_vec()),
            (sys::NFTNL_EXPR_CMP_OP, word(operator)),
            (sys::NFTNL_EXPR_CMP_DATA, value.to_vec()),
        ],
    )
}

fn reject(kind: libc::c_int, code: u8) -> Expr {
    let attributes =
        vec![(sys::NFTNL_EXPR_REJECT_TYPE, word(kind)), (sys::NFTNL_EXPR_REJECT_CODE, vec![code])];
    Expr(c"reject", attributes)
}

pub(super) fn word(number: libc::c_int) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

/// Up to the first NUL, which none of our names has.
pub(super) fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

/// A named counter, which nftnl has no type for.
struct Counter(&'static str);

// SAFETY: what is written is the few dozen bytes of one message.
unsafe impl NlMsg for Counter {
    unsafe fn write(&self, buf: *mut c_void, sequence: u32, msg_type: MsgType) {
        let (kind, flags) = match msg_type {
            MsgType::Add => (libc::NFT_MSG_NEWOBJ, NLM_F_CREATE | NLM_F_ACK),
            MsgType::Del => (libc::NFT_MSG_DELOBJ, NLM_F_ACK),
        };
        let mut attributes = counter_attributes(self.0);
        attributes.push(DefaultNla::new(NFTA_OBJ_DATA | NLA_F_NESTED, vec![]));
        let bytes = message(kind, NetfilterProtoFamily::Inet, flags, sequence, attributes);
        // SAFETY: `buf` has room for the largest message, which the caller of `write` vouches for.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast::<u8>(), bytes.len()) };
    }
}

fn counter_attributes(name: &str) -> Vec<DefaultNla> {
    vec![
        DefaultNla::new(NFTA_OBJ_TABLE, c_string(TABLE).into_bytes_with_nul()),
        DefaultNla::new(NFTA_OBJ_NAME, c_string(name).into_bytes_with_nul()),
        DefaultNla::new(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_be_bytes().to_vec()),
    ]
}

/// Asks for the counter of this name.
pub(super) fn get_counter(name: &str, sequence: u32) -> Vec<u8> {
    message(libc::NFT_MSG_GETOBJ, NetfilterProtoFamily::Inet, 0, sequence, counter_attributes(name))
}

/// How many packets a counter has counted, by the body of the kernel's answer.
pub(super) fn counted(body: &[u8]) -> Option<u64> {
    readback::number(body, NFTA_OBJ_DATA, NFTA_COUNTER_PACKETS)
}

/// Asks for all objects of a kind, of every family.
pub(super) fn dump(kind: libc::c_int, sequence: u32) -> Vec<u8> {
    message(kind, NetfilterProtoFamily::Unspec, NLM_F_DUMP, sequence, vec![])
}

pub(super) fn message(
    kind: libc::c_int,
    family: NetfilterProtoFamily,
    flags: u16,
    sequence: u32,
    attributes: Vec<DefaultNla>,
) -> Vec<u8> {
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::NfTables,
        message_type: byte(kind),
        attributes,
    };
    let header = NetfilterHeader::new(family, byte(libc::NFNETLINK_V0), 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
