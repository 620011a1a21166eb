//! Code that runs as root: how much there is, by `tools/root-lines`.

use std::process::Command;

use super::root;

#[test]
fn code_that_runs_as_root_only_shrinks() {
    let output =
        Command::new(root().join("tools/root-lines")).arg("--check").output().expect("tools/root-lines");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
