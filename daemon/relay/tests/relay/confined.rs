use std::os::unix::process::CommandExt;

use agentd_policy::wire::frame;

use crate::rig;

/// Somebody without rights, as a leased uid is.
const NOBODY: u32 = 65534;

#[test]
fn it_works_under_its_filter_and_without_capabilities() {
    // The build's directory need not be open to others.
    let place = std::env::temp_dir().join(format!("agentd-relay-test-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_agentd-relay"), &place).unwrap();
    let (mut relay, pipes) = rig::pipes_with(&place, |start| {
        if rustix::process::geteuid().is_root() {
            start.uid(NOBODY).gid(NOBODY);
        }
    });
    let mut cat = pipes.sh("cat");
    // Once bytes flow, it is past its start.
    relay.send(frame::STDIN, b"x");
    assert_eq!(relay.next(), Some((frame::STDOUT, b"x".to_vec())));
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.child.id())).unwrap();
    std::fs::remove_file(&place).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("Threads:"), "1");
    relay.send(frame::STDIN_EOF, b"");
    assert_eq!(relay.rest().0, b"");
    cat.wait().unwrap();
    relay.assert_ends_well();
}
