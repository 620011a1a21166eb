//! The probe: `probe CASE [ARG…]` tries one hostile act and says on one line of JSON what came of it.
//!
//! It exits with 0 whatever the act's outcome; another code means that the probe itself is broken.
//! `probe --apart CASE [ARG…]` first gives itself namespaces of its own, to show as root that an act works
//! where nothing confines it and nobody is harmed.

mod apart;
mod bombs;
pub mod case;
mod counters;
mod files;
mod identity;
mod kernel;
mod mounts;
mod names;
mod net;
mod network;
mod processes;
mod sockets;
pub(crate) mod sys;
mod terminal;
mod views;

use std::process::ExitCode;

pub use case::{Act, Case, Outside, Refused, Seen};

/// Every case, in the order in which they are tried.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    let groups: [&'static [Case]; 12] = [
        files::CASES,
        names::CASES,
        identity::CASES,
        processes::CASES,
        mounts::CASES,
        sockets::CASES,
        network::CASES,
        kernel::CASES,
        terminal::CASES,
        bombs::CASES,
        views::CASES,
        counters::CASES,
    ];
    groups.into_iter().flatten()
}

/// Those that need a session egress.
pub fn egress_cases() -> impl Iterator<Item = &'static Case> {
    net::requests::CASES.iter().chain(net::CASES)
}

/// The probe's `main`.
pub fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let apart = words.next_if(|word| word == "--apart").is_some();
    let Some(name) = words.next() else {
        eprintln!("usage: probe [--apart] CASE [ARG…]");
        return ExitCode::from(2);
    };
    let args: Vec<String> = words.collect();
    if let Some(code) = helper(&name, &args) {
        return code;
    }
    let Some(case) = cases().chain(egress_cases()).find(|case| case.name == name) else {
        eprintln!("probe: no case {name}");
        return ExitCode::from(2);
    };
    if apart && let Err(error) = apart::enter() {
        eprintln!("probe: cannot go apart: {error}");
        return ExitCode::from(3);
    }
    println!("{}", report(case.name, &(case.act)(&args)));
    ExitCode::SUCCESS
}

/// What the probe is started for by itself, or by tests that are no cases.
fn helper(name: &str, args: &[String]) -> Option<ExitCode> {
    match name {
        "--euid" => println!("euid {}", rustix::process::geteuid().as_raw()),
        "--make-queue" => processes::make_queue(args),
        "--outlive" => processes::outlive(args),
        "--flood" => net::crowds::flood_of_a_name(args),
        "--quick" => net::crowds::quick(args),
        "--slow" => net::crowds::slow_until_told(args),
        "--copy" => return Some(bombs::copy()),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn report(case: &str, act: &Act) -> String {
    let (errno, detail) = match act {
        Ok(got) => (None, got),
        Err(refused) => (Some(refused.errno), &refused.detail),
    };
    serde_json::json!({ "case": case, "ok": act.is_ok(), "errno": errno, "detail": detail }).to_string()
}
