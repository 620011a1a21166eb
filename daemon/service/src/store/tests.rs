use agentd_proto::v1::Event;

use super::*;
use std::io::Write;

fn store(name: &str) -> (Store, PathBuf) {
    let root = std::env::temp_dir().join(format!("agentd-store-{name}-{}", std::process::id()));
    std::fs::create_dir_all(root.join("audit")).unwrap();
    (again(&root), root)
}

fn again(root: &Path) -> Store {
    Store::open(&AbsPath::parse(root.to_str().unwrap()).unwrap(), 1000).unwrap()
}

fn id() -> SessionId {
    SessionId::parse("0123456789ab").unwrap()
}

fn event(seq: u64) -> EventLine {
    let event = Event { seq, kind: "process.exec".into(), ..Event::default() };
    EventLine { event, source: (seq != 2).then_some(seq * 10) }
}

fn record() -> Record {
    crate::session::tests::session(id().as_str(), None, 1000).record()
}

fn stored(root: &Path) -> Option<Record> {
    record::load(&root.join("audit")).unwrap().into_iter().next()
}

/// All that was asked for before is done: what is forgotten in a batch of its own is so behind those before.
async fn all_done(store: &Store) {
    for _ in 0..2 {
        store.forget(&SessionId::parse("000000000000").unwrap()).await;
    }
}

#[tokio::test]
async fn events_are_lines_and_counted_when_on_disk() {
    let (store, root) = store("lines");
    let log = store.log(&id());
    let mut grown = store.grown();
    store.append(&log, &[event(1), event(2)]).await.unwrap();
    store.append(&log, &[event(3)]).await.unwrap();
    store.settle([&log].into_iter()).await.unwrap();
    grown.changed().await.unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!((text.len() as u64, log.written()), (log.committed(), log.committed()));
    let seqs: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Event>(l).unwrap().seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert!(text.ends_with(",\"n\":30}\n") && text.matches("\"n\":").count() == 2);
    log.close();
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn nobody_waits_for_the_disk_to_write_and_nobody_sees_before_it() {
    let (store, root) = store("slow");
    store.gate().shut(true);
    let (log, mut grown) = (store.log(&id()), store.grown());
    store.create(&record()).await.await.unwrap().unwrap();
    for seq in 1..=200 {
        store.append(&log, &[event(seq)]).await.unwrap();
    }
    let end = Event { kind: "session.ended".into(), ..event(201).event };
    store.append(&log, &[EventLine { event: end, source: None }]).await.unwrap();
    log.close();
    assert_eq!(log.written(), std::fs::metadata(log.path()).unwrap().len());
    assert!(log.committed() == 0 && !grown.has_changed().unwrap());
    store.gate().shut(false);
    store.settle([&log].into_iter()).await.unwrap();
    grown.changed().await.unwrap();
    assert_eq!(log.committed(), log.written());
    // The record, the file and the directory; once more for what came while the first of them waited.
    assert!(store.gate().passed() <= 6, "{}", store.gate().passed());
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn what_was_written_and_not_synced_is_no_more_than_that_for_the_next_service() {
    let (first, root) = store("again");
    let log = first.log(&id());
    first.append(&log, &[event(1)]).await.unwrap();
    first.settle([&log].into_iter()).await.unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    file.write_all(b"{\"seq\":2,\"n\":20}\n{\"seq\":3,").unwrap();
    drop(first);
    let second = again(&root);
    second.gate().shut(true);
    let log = second.log(&id());
    let tail = second.take_up(&log, false).unwrap();
    assert_eq!((tail.seq, tail.source, log.written(), log.committed()), (2, 20, tail.length, 0));
    second.append(&log, &[event(3)]).await.unwrap();
    second.gate().shut(false);
    second.settle([&log].into_iter()).await.unwrap();
    assert_eq!(
        (log.committed(), std::fs::read_to_string(log.path()).unwrap().lines().count()),
        (log.written(), 3)
    );
    // One that is known to have ended is on disk.
    let known = again(&root);
    let log = known.log(&id());
    assert_eq!(known.take_up(&log, true).unwrap().length, log.committed());
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_sync_that_failed_is_for_good() {
    let (store, root) = store("broken");
    let log = store.log(&id());
    store.create(&record()).await.await.unwrap().unwrap();
    store.append(&log, &[event(1)]).await.unwrap();
    store.settle([&log].into_iter()).await.unwrap();
    let committed = log.committed();
    store.gate().break_it();
    store.append(&log, &[event(2)]).await.unwrap();
    store.save(&Record { detached: true, ..record() });
    assert_eq!(store.settle([&log].into_iter()).await.unwrap_err().rule.name(), "audit.failed");
    assert_eq!(store.check().unwrap_err().rule.name(), "audit.failed");
    assert!(matches!(store.append(&log, &[event(3)]).await, Err(StoreError::Failed)));
    all_done(&store).await;
    let left = std::fs::metadata(log.path()).unwrap().len();
    assert_eq!((log.committed(), log.written(), left), (committed, committed, committed));
    assert!(!stored(&root).unwrap().detached);
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn the_last_record_stays_and_none_comes_after_it_was_forgotten() {
    let (store, root) = store("records");
    store.create(&record()).await.await.unwrap().unwrap();
    assert!(store.has(&id()));
    store.gate().shut(true);
    for output in 1..=50 {
        store.save(&Record { output, ..record() });
    }
    store.gate().shut(false);
    all_done(&store).await;
    assert_eq!(stored(&root).unwrap().output, 50);
    store.save(&Record { output: 51, ..record() });
    store.forget(&id()).await;
    all_done(&store).await;
    let mut left = std::fs::read_dir(root.join("audit")).unwrap();
    assert!(!store.has(&id()) && left.all(|entry| entry.unwrap().file_name() == "reserve"));
    std::fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_full_file_takes_nothing_but_the_end() {
    let (store, root) = store("full");
    let log = store.log(&id());
    log.fill(MAX_LOG - RESERVE);
    assert!(matches!(store.append(&log, &[event(1)]).await, Err(StoreError::Full(_))));
    let end = Event { kind: "session.ended".into(), ..event(2).event };
    store.append(&log, &[EventLine { event: end, source: None }]).await.unwrap();
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_was_kept_long_enough_goes_unless_its_session_lives() {
    let (store, root) = store("sweep");
    let file = root.join("audit/0123456789ab.jsonl");
    std::fs::write(&file, "x").unwrap();
    let sweep = |retain| sweep::sweep(&root.join("audit"), &store.live, retain);
    sweep(Duration::from_secs(3600));
    let log = store.log(&id());
    sweep(Duration::ZERO);
    assert!(file.exists());
    log.close();
    sweep(Duration::ZERO);
    assert!(!file.exists());
    std::fs::remove_dir_all(root).unwrap();
}
