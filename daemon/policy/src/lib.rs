//! What agentd decides, and the words that its processes share. Pure: no I/O, no async, no clock.
//!
//! Hostile input becomes a type here or is refused here: [`names`] and [`size`] parse once into values
//! that cannot hold the wrong thing, [`profile`] and [`decide`] turn a request into a [`plan::Plan`], and
//! [`wire`] bounds what one process may say to another.

pub mod addresses;
pub mod allow;
pub mod blocklist;
pub mod caps;
pub mod ceiling;
pub mod config;
pub mod connection_end;
pub mod consent;
pub mod decide;
pub mod denial;
pub mod digest;
pub mod dns_type;
pub mod egress;
pub mod environment;
pub mod event;
pub mod event_kind;
pub mod exit_reason;
pub mod git;
pub mod hosts;
pub mod lease;
pub mod library;
pub mod limit_kind;
pub mod limits;
pub mod mode;
pub mod mount;
pub mod names;
pub mod network;
pub mod offer;
mod overlap;
pub mod pattern;
mod places;
pub mod plan;
pub mod ports;
pub mod profile;
pub mod protocol;
pub mod publish;
pub mod quantity;
pub mod refusal;
pub mod reload;
pub mod request;
pub mod resolver;
pub mod review;
pub mod rule;
pub mod size;
pub mod step;
pub mod text;
pub mod token_bucket;
pub mod wire;
mod workspaces;

pub use refusal::Refusal;
