//! What the relay reads of the agent's: TLS, HTTP/1, SOCKS and DNS. Pure: no I/O, no clock, no randomness; every reader
//! takes bytes and says what they are, so that tests and fuzzers can do the same.
//!
//! A reader that judges must never disagree with the server behind it on what was asked for, and where the next
//! request starts. So these read less than the standards allow: what two programs could understand in two ways is
//! refused.

#![forbid(unsafe_code)]

pub mod dns;
pub mod exercise;
pub mod hello;
pub mod http;
pub mod http2;
pub mod proxy;
pub mod socks;
