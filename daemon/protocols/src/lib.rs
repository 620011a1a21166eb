//! Readers of an agent's bytes: DNS, ClientHello, HTTP/1 and HTTP/2, SOCKS, terminals. No I/O, no randomness, no plan:
//! every reader takes bytes and returns what they are, so that relay, client, tests and fuzzers use the same one. Only
//! [`terminal::screen`] reads a clock, to bound what its parser costs.
//!
//! A reader that judges must never disagree with the server behind it on what was asked for, and where the next
//! request starts. So these read less than the standards allow: what two programs could understand in two ways is
//! refused.

#![forbid(unsafe_code)]

pub mod authority;
pub mod dns;
pub mod exercise;
pub mod hello;
pub mod http;
pub mod http2;
pub mod socks;
pub mod terminal;
