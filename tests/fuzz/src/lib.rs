//! Every reader of hostile bytes as a function of bytes, which asserts what the reader promises. `corpus/` has what
//! each is to begin with, and what was found; `make fuzz` goes on from there, and the test `replay` needs no fuzzer.

mod git;
mod policy;
mod review;
mod terminal;

// The launcher has these for itself.
#[allow(dead_code)]
#[path = "../../../daemon/session/src/scout/index.rs"]
mod index;
#[allow(dead_code)]
#[path = "../../../daemon/session/src/scout/objects.rs"]
mod objects;
#[allow(dead_code)]
#[path = "../../../daemon/session/src/scout/trouble.rs"]
mod trouble;
#[allow(dead_code)]
#[path = "../../../daemon/session/src/scout/walk.rs"]
mod walk;

use agentd_kernel::exercise as kernel;
use agentd_protocols::exercise as protocols;

/// A target: bytes from nobody knows where.
pub type Target = fn(&[u8]);

/// All of them, by the names of their directories in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("tls_hello", protocols::hello),
    ("http_requests", protocols::http),
    ("http_exchange", protocols::exchange),
    ("http2_requests", protocols::http2),
    ("authority", protocols::target),
    ("socks", protocols::socks),
    ("dns_query", protocols::dns_query),
    ("dns_reply", protocols::dns_reply),
    ("nft_readback", kernel::readback),
    ("nflog", kernel::denied),
    ("proc", kernel::proc),
    ("messages", policy::messages),
    ("offers", policy::offers),
    ("hosts", policy::hosts),
    ("rules", policy::rules),
    ("profile", policy::profile),
    ("config", policy::config),
    ("git_index", git::index),
    ("git_config", git::config),
    ("git_pointers", git::pointers),
    ("git_objects", git::objects),
    ("terminal_filter", terminal::filter),
    ("screen", terminal::screen),
    ("review_text", review::text),
    ("review_merge", review::merge),
    ("review_patch", review::patch),
    ("review_manifest", review::manifest),
];
