//! libFuzzer on the target that `TARGET` names; its arguments are libFuzzer's.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    let target = agentd_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    target.map(|(_, target)| *target).unwrap_or_else(|| {
        let names: Vec<_> = agentd_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("TARGET is one of {}", names.join(" "));
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
