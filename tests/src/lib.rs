//! Tests of agentd from outside and from inside: [`probe`] is what a hostile agent tries, [`harness`] runs
//! a private daemon, plays its users and looks at what is left on the host.

pub mod harness;
pub mod probe;
