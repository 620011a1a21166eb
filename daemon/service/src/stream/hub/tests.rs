use super::*;
use agentd_policy::wire::frame;

fn hub() -> Arc<Hub> {
    Hub::new(None, Stage::Live, Arc::new(Pace::new(1.0)))
}

fn out(hub: &Hub, len: usize) {
    hub.push(frame::STDOUT, vec![b'x'; len].into());
}

fn taken(subscription: &Subscription) -> usize {
    let mut bytes = 0;
    while let Some(Next::Frame(piece)) = subscription.now() {
        bytes += piece.bytes.len();
    }
    bytes
}

#[test]
fn clients_hold_up_for_a_while_and_watchers_do_not() {
    let hub = hub();
    let first = hub.join(false, From::Kept).unwrap();
    let watcher = hub.join(true, From::Kept).unwrap();
    out(&hub, CLIENT_BUFFER);
    // Nobody waits with it: it may take as long as it likes.
    let late = Instant::now() + 2 * STUCK_TIMEOUT;
    assert_eq!((hub.has_room(), hub.stuck_deadline()), (false, None));
    hub.cut_stuck(late);
    let second = hub.join(false, From::Place(CLIENT_BUFFER as u64)).unwrap();
    assert!(!hub.has_room() && hub.stuck_deadline().unwrap() <= late);
    // It takes something: then it is not stuck.
    hub.cut_stuck(Instant::now());
    assert_eq!(taken(&first), CLIENT_BUFFER);
    assert!(hub.has_room());
    out(&hub, CLIENT_BUFFER);
    // Both are stuck: nobody waits.
    assert_eq!((hub.has_room(), hub.stuck_deadline()), (false, None));
    hub.cut_stuck(late);
    taken(&second);
    hub.cut_stuck(late);
    assert_eq!((first.now(), second.now()), (Some(Next::Cut), None));
    assert!(hub.has_room());
    for _ in 0..100 {
        out(&hub, 64 << 10);
        taken(&second);
    }
    assert_eq!(watcher.now(), Some(Next::Cut));
    out(&hub, CLIENT_BUFFER);
    assert!(!hub.has_room());
    drop(second);
    assert!(hub.has_room());
}

#[test]
fn what_is_kept_in_memory_is_no_more_than_it_is_worth() {
    let hub = hub();
    for _ in 0..100 {
        out(&hub, 64 << 10);
        out(&hub, 100);
    }
    let subscription = hub.join(true, From::Kept).unwrap();
    out(&hub, 5);
    hub.rest();
    // What was forgotten is still there for who came before.
    assert_eq!(subscription.waiting().last().unwrap().bytes.len(), 5);
    let inner = lock(&hub.inner);
    assert!(inner.recent_size <= RECENT && inner.recent.iter().all(|piece| piece.bytes.len() < LONG));
}

#[test]
fn a_client_gets_every_byte_from_its_place_on() {
    let hub = hub();
    out(&hub, 100);
    let subscription = hub.join(false, From::Place(40)).unwrap();
    let late = hub.join(false, From::Place(120)).unwrap();
    out(&hub, 50);
    assert_eq!((taken(&subscription), taken(&late)), (110, 30));
    for _ in 0..100 {
        out(&hub, 1000);
    }
    assert_eq!(hub.join(false, From::Place(0)).err().unwrap().rule.name(), "attach.gone");
    taken(&subscription);
    hub.set_stage(Stage::Drained);
    hub.set_stage(Stage::Lost);
    assert_eq!(subscription.now(), Some(Next::Done { whole: true }));
}

#[test]
fn snapshots_go_to_the_client_that_asked() {
    let hub = hub();
    out(&hub, 10);
    let (one, two) = (hub.join(false, From::Screen).unwrap(), hub.join(true, From::Screen).unwrap());
    out(&hub, 5);
    hub.snapshot(b"pic");
    hub.snapshot(b"ture");
    assert_eq!(one.now(), None);
    hub.snapshot(b"");
    assert_eq!(one.now(), Some(Next::Snapshot(15, "picture".into())));
    out(&hub, 5);
    assert_eq!((taken(&one), two.now()), (5, None));
    assert_eq!(two.without_snapshot(), 20);
    hub.snapshot(b"");
    out(&hub, 7);
    assert!(matches!(two.now(), Some(Next::Snapshot(20, _))));
    assert_eq!(taken(&two), 7);
}
