//! The load of `make bench-net`. Usage:
//!
//! - `netload serve ADDRESS RAW TLS CERTIFICATE KEY`: answers at two ports, in the clear and by TLS, and to questions
//!   of DNS at `ADDRESS` port 53: every name is `ADDRESS`. Prints `ready`.
//! - `netload work NAME RAW TLS CERTIFICATE [PROXY]`: reads a measurement a line, prints its figures, a line of JSON
//!   each. Connects to `NAME`, by the CONNECT of `PROXY` if there is one. `NAME=ADDRESS` makes no DNS query.
//! - `netload lists NUMBER`: figures of a blocklist of so many names.
//!
//! Threads and blocking calls throughout: what is measured is what is between, and a loop would add its own wakeups.

mod dns;
mod link;
mod lists;
mod server;
mod work;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Whatever goes wrong ends the program.
type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", address, raw, tls, certificate, key] => {
            server::serve(address, [raw, tls], [certificate, key])
        }
        ["work", name, raw, tls, certificate] => work::work(name, [raw, tls], certificate, None),
        ["work", name, raw, tls, certificate, proxy] => {
            work::work(name, [raw, tls], certificate, Some(proxy))
        }
        ["lists", count] => count.parse().map_err(Into::into).and_then(lists::lists),
        _ => Err("usage: see the source".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone, which changes nothing.
            writeln!(std::io::stderr(), "netload {}: {error}", words.join(" ")).ok();
            ExitCode::FAILURE
        }
    }
}
