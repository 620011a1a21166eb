//! What each request takes, for people.

use super::*;

/// Prints what each request takes, the client on a thread of its own, as its process would be. For people:
/// `cargo test -p agentd --release latency -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn latency() {
    use tokio::runtime::Builder;
    for (kind, mut builder) in
        [("one thread", Builder::new_current_thread()), ("two workers", Builder::new_multi_thread())]
    {
        let server = builder.worker_threads(2).enable_all().build().unwrap();
        let mut stage = server.block_on(async { Stage::new("latency") });
        let (done, until) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let client = Builder::new_current_thread().enable_all().build().unwrap();
                let (version, list) = client.block_on(measure(&mut stage));
                println!("{kind}: version {version:?}, list {list:?}");
                drop(done);
            });
            server.block_on(until).ok();
        });
    }
}

async fn measure(stage: &mut Stage) -> (Duration, Duration) {
    let mut client = stage.connect(ALICE).await;
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let start = std::time::Instant::now();
        client.version(VersionRequest {}).await.unwrap();
        samples.0.push(start.elapsed());
        let start = std::time::Instant::now();
        client.list(ListRequest { all: true }).await.unwrap();
        samples.1.push(start.elapsed());
    }
    samples.0.sort();
    samples.1.sort();
    (samples.0[250], samples.1[250])
}
