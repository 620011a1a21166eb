//! Everything in `corpus/` once more, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use agentd_fuzz::TARGETS;

#[test]
fn whatever_fuzzers_found_is_read_as_promised() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        entries.map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>()
    };
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let files = entries(&corpus.join(name));
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in &files {
            let bytes = fs::read(file).unwrap();
            if catch_unwind(|| target(&bytes)).is_err() {
                failed.push(file.display().to_string());
            }
        }
        println!("{name}: {} files", files.len());
    }
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| corpus.join(name)).collect();
    assert_eq!(entries(&corpus), known, "a corpus without a target");
    assert!(failed.is_empty(), "{failed:#?}");
}
