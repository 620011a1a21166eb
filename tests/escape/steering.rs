//! What a session does to those who steer it from outside.

use std::process::Stdio;
use std::time::{Duration, Instant};

use agentd_tests::harness::{World, wait_for_exit};

/// A further command is a process of the agent's before it is a program: stopped on its way, it holds nothing up.
pub fn stopped_on_the_way(world: &World) {
    let session = world.session();
    let stops = "trap 'exit 7' TERM; echo ready; while :; do kill -STOP -1 2>/dev/null; done";
    let mut first = session.spawn_ready(stops);
    let exec = || {
        let mut agentctl = world.a().command(world.daemon().agentctl());
        agentctl.arg("--socket").arg(world.daemon().socket()).args(["exec", session.name(), "true"]);
        agentctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("setpriv")
    };
    let mut further: Vec<_> = (0..8).map(|_| exec()).collect();
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    world.agentctl(world.a(), ["stop", session.name()]).expect_code(0);
    assert!(began.elapsed() < Duration::from_secs(5), "its end was reported after {:?}", began.elapsed());
    let status = wait_for_exit(&mut first, Duration::from_secs(10)).expect("it has ended");
    assert_eq!(status.code(), Some(7));
    for child in &mut further {
        wait_for_exit(child, Duration::from_secs(10)).expect("with it the others have");
    }
}
