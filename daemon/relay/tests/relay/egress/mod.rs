//! Egress. The test plays the keeper and the resolvers: names lead to servers of its own on the loopback, and a
//! listener's own address is the destination, as it is of a transparent one.

mod caps;
mod copying;
mod dials;
mod http2;
mod names;
mod opaque;
mod proxies;
mod requests;
mod world;
