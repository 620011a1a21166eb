//! Every reader of hostile bytes as a function of bytes, which asserts what the reader promises. `corpus/` has what each
//! is to begin with, and what was found; `make fuzz` goes on from there, and the test `replay` needs no fuzzer.

mod git;
mod policy;
mod terminal;

// The client and the relay's program have these for themselves.
#[allow(dead_code)]
#[path = "../../../client/src/filter.rs"]
mod filter;
#[path = "../../../client/src/modes.rs"]
mod modes;
#[allow(dead_code)]
#[path = "../../../daemon/relay/src/queries.rs"]
mod queries;
#[allow(dead_code)]
#[path = "../../../daemon/relay/src/screen.rs"]
mod screen;
// And the launcher.
#[allow(dead_code)]
#[path = "../../../daemon/launcher/src/scout/index.rs"]
mod index;
#[allow(dead_code)]
#[path = "../../../daemon/launcher/src/scout/objects.rs"]
mod objects;
#[allow(dead_code)]
#[path = "../../../daemon/launcher/src/scout/trouble.rs"]
mod trouble;
#[allow(dead_code)]
#[path = "../../../daemon/launcher/src/scout/walk.rs"]
mod walk;

use agentd_kernel::exercise as kernel;
use agentd_relay::exercise as relay;

/// A target: bytes from nobody knows where.
pub type Target = fn(&[u8]);

/// All of them, by the names of their directories in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("tls_hello", relay::hello),
    ("http_requests", relay::http),
    ("http_exchange", relay::exchange),
    ("http2_requests", relay::http2),
    ("authority", relay::target),
    ("socks", relay::socks),
    ("dns_query", relay::dns_query),
    ("dns_reply", relay::dns_reply),
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
];
