//! A blocklist of many names: what reading it takes, its table, and looking names up in that.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use agentd_kernel::memfd::{self, Sealed};
use agentd_policy::blocklist::{self, Blocklist, Compiler, KEY, Label};
use agentd_policy::hosts::HostName;
use serde_json::json;

use crate::Done;

/// How many names are looked up, listed ones and others.
const LOOKED_UP: usize = 200_000;

/// Prints figures of a list of `count` names, as a file of `hosts(5)` lines, a line of JSON.
pub fn lists(count: usize) -> Done {
    let mut text = String::new();
    for n in 0..count {
        writeln!(text, "0.0.0.0 {}", name("listed", n))?;
    }
    let before = resident()?;
    let began = Instant::now();
    let mut compiler = Compiler::new([7; KEY], vec![Label::parse("ads")?]);
    blocklist::read(text.as_bytes(), |scope, name| compiler.add(0, scope, name))?;
    let memory = memfd::create("netload")?;
    compiler.finish(|bytes: &[u8]| rustix::io::write(&memory, bytes).map(drop))?;
    let (reading, took) = (resident()?.saturating_sub(before), began.elapsed());
    let table = Sealed::seal(memory)?;
    let size = table.size()?;
    let list = Blocklist::open(size, move |buffer, offset| table.read_exact_at(buffer, offset))?;
    let look_up = |prefix: &str| -> Done<f64> {
        let step = (count / LOOKED_UP).max(1);
        let names: Result<Vec<_>, _> =
            (0..count).step_by(step).map(|n| HostName::parse(&name(prefix, n))).collect();
        let (names, began) = (names?, Instant::now());
        let denied = names.iter().filter(|name| black_box(list.check(name)).is_err()).count();
        let took = began.elapsed().as_secs_f64() * 1e6 / names.len() as f64;
        match (prefix, denied) {
            ("listed", found) if found == names.len() => Ok(took),
            ("absent", 0) => Ok(took),
            _ => Err(format!("{denied} of {} {prefix} names are denied", names.len()).into()),
        }
    };
    let figures = json!({
        "names": count, "table": size, "reading": reading, "seconds": took.as_secs_f64(),
        "listed_us": look_up("listed")?, "absent_us": look_up("absent")?,
    });
    println!("{figures}");
    Ok(())
}

fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}-{n}.some-host.example")
}

/// The most memory that the process had so far, in bytes.
fn resident() -> Done<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
