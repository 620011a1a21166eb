//! One kernel facility a file: a part of the plan in, a handle out.
//!
//! [`packets`], [`descriptor`], [`notify`], [`inherited`], [`memfd`] and [`stderr`] are safe and small, for every
//! process. What a program takes from itself needs the feature `lockdown`, the rest `session`, which launcher and
//! session ask for. This is the only crate of agentd that may hold `unsafe`; each use argues why it is sound.

#[cfg(feature = "account")]
pub mod account;
#[cfg(feature = "session")]
pub mod affinity;
#[cfg(feature = "session")]
pub mod cgroup;
#[cfg(feature = "lockdown")]
pub mod creds;
#[cfg(feature = "lockdown")]
pub mod datagrams;
pub mod descriptor;
#[cfg(feature = "session")]
pub mod event_loop;
#[cfg(feature = "session")]
pub mod exec_watch;
#[cfg(feature = "session")]
pub mod exercise;
#[cfg(feature = "session")]
pub mod idmap;
pub mod inherited;
#[cfg(feature = "lockdown")]
pub mod landlock;
#[cfg(feature = "lockdown")]
pub mod lockdown;
#[cfg(feature = "session")]
pub mod loop_device;
#[cfg(feature = "session")]
pub mod loopback;
pub mod memfd;
#[cfg(feature = "session")]
pub mod mount;
#[cfg(feature = "session")]
pub mod mountinfo;
#[cfg(feature = "session")]
mod netlink;
#[cfg(feature = "session")]
pub mod nflog;
#[cfg(feature = "session")]
pub mod nft;
pub mod notify;
#[cfg(feature = "session")]
pub mod nsfs;
pub mod packets;
#[cfg(feature = "session")]
pub mod parked;
#[cfg(feature = "session")]
pub mod peer;
#[cfg(feature = "session")]
pub mod process;
#[cfg(feature = "session")]
pub mod procfs;
#[cfg(feature = "session")]
pub mod quota;
#[cfg(feature = "session")]
pub mod resets;
#[cfg(feature = "lockdown")]
pub mod rlimits;
#[cfg(feature = "session")]
pub mod route;
#[cfg(feature = "lockdown")]
pub mod seccomp;
#[cfg(feature = "session")]
pub mod sock_diag;
pub mod stderr;
#[cfg(feature = "session")]
pub mod transparent;
#[cfg(feature = "session")]
pub mod uids;
#[cfg(feature = "lockdown")]
mod width;
