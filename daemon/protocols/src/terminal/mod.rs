//! Terminal output of an agent: what of it reaches a caller's terminal ([`filter`]), and what a terminal shows
//! ([`screen`]).

pub mod filter;
mod modes;
mod queries;
mod scanner;
pub mod screen;
