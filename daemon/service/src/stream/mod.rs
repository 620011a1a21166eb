//! The streams of a command: from its relay, through the [hub](hub::Hub), to the clients that are attached.

pub mod hub;
pub mod pace;
pub mod relay;
pub mod replay;
