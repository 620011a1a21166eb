use super::*;

fn log(name: &str) -> (OutputLog, PathBuf) {
    let dir = std::env::temp_dir().join(format!("agentd-output-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    (again(&dir), dir)
}

fn again(dir: &Path) -> OutputLog {
    let log = OutputLog::new(dir, &SessionId::parse("0123456789ab").unwrap());
    log.open();
    log
}

fn frames(at: u64, sizes: &[usize]) -> Vec<Frame> {
    let mut place = at;
    let one = |len: &usize| {
        let bytes: Vec<u8> = (place..place + *len as u64).map(|i| (i % 251) as u8).collect();
        let piece = Frame { at: place, kind: frame::STDOUT, bytes: bytes.into() };
        place = piece.end();
        piece
    };
    sizes.iter().map(one).collect()
}

fn all(log: &OutputLog, from: u64) -> Vec<u8> {
    let mut reader = log.reader(from, u64::MAX).unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().unwrap() {
        assert_eq!(piece.at, from.max(log.range().0) + bytes.len() as u64);
        bytes.extend_from_slice(&piece.bytes);
    }
    bytes
}

#[test]
fn output_comes_back_from_any_place() {
    let (log, dir) = log("place");
    log.append(&frames(0, &[5, 10]), false);
    log.append(&frames(15, &[1]), true);
    for log in [log, again(&dir)] {
        assert_eq!((log.range(), log.is_drained()), ((0, 16), true));
        for from in 0..=16 {
            assert_eq!(all(&log, from), (from..16).map(|i| u8::try_from(i).unwrap()).collect::<Vec<_>>());
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn it_is_bounded_and_the_last_of_it_is_kept() {
    let (log, dir) = log("bound");
    let (mut at, chunk) = (0, 60_000);
    for _ in 0..300 {
        log.append(&frames(at, &[chunk]), false);
        at += chunk as u64;
    }
    assert!(log.size() <= 2 * SEGMENT);
    for log in [log, again(&dir)] {
        let (start, end) = log.range();
        assert!(end == at && end - start > 3 << 20 && start > 0);
        assert_eq!(all(&log, start + 7)[0], ((start + 7) % 251) as u8);
        assert_eq!(all(&log, 0).len() as u64, end - start);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_torn_is_cut() {
    let (log, dir) = log("torn");
    log.append(&frames(0, &[100]), false);
    let path = log.slots[0].clone();
    let whole = path.metadata().unwrap().len();
    for more in [&[3, 5, 0][..], &[3, 5, 0, 0, 1, 2][..], &[255; 9][..]] {
        OpenOptions::new().append(true).open(&path).unwrap().write_all(more).unwrap();
        let log = again(&dir);
        assert_eq!((log.range(), path.metadata().unwrap().len()), ((0, 100), whole));
        assert!(!log.is_drained());
    }
    let log = again(&dir);
    log.append(&frames(100, &[5]), true);
    assert_eq!(all(&again(&dir), 0).len(), 105);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_not_taken_for_the_old_one() {
    let (log, dir) = log("replaced");
    log.append(&frames(0, &[100]), false);
    // As in the middle of a rotation: the new file is there, and not known yet.
    std::fs::write(&log.slots[0], [&MAGIC[..], &500u64.to_le_bytes(), &[3, 1, 0, 0, b'x']].concat()).unwrap();
    assert_eq!(log.reader(0, u64::MAX).unwrap().next().unwrap(), None);
    std::fs::remove_dir_all(dir).unwrap();
}
