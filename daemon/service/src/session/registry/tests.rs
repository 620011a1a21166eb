use agentd_policy::wire::Peer;

use super::*;
use crate::session::tests::session;

fn peer(uid: u32, admin: bool) -> Peer {
    Peer { uid, gid: uid, pid: 1, admin }
}

fn registry(bounds: &Bounds, sessions: &[Arc<Session>]) -> Registry {
    let registry = Registry::new(bounds);
    for session in sessions {
        registry.insert(session).unwrap();
    }
    registry
}

#[test]
fn ids_prefixes_and_names_find_a_session() {
    let sessions = [
        session("aa0000000001", Some("web"), 1000),
        session("aa0000000002", None, 1000),
        session("bb0000000001", Some("aa"), 1000),
    ];
    let registry = registry(&Bounds::default(), &sessions);
    let find = |text: &str| {
        registry
            .find(text, &peer(1000, false), Access::Control)
            .map(|s| s.id.to_string())
            .map_err(|r| r.rule.name())
    };
    assert_eq!(find("aa0000000002").unwrap(), "aa0000000002");
    assert_eq!(find("b").unwrap(), "bb0000000001");
    assert_eq!(find("web").unwrap(), "aa0000000001");
    assert_eq!(find("aa").unwrap(), "bb0000000001");
    assert_eq!(find("aa0").unwrap_err(), "session.ambiguous");
    for none in ["", "cc", "aa00000000011", "%"] {
        assert_eq!(find(none).unwrap_err(), "session.unknown");
    }
}

#[test]
fn the_sessions_of_others_do_not_exist() {
    let registry = registry(&Bounds::default(), &[session("aa0000000001", Some("web"), 1000)]);
    let find = |uid, admin, access| registry.find("aa", &peer(uid, admin), access).map(|_| ());
    let foreign = find(1001, false, Access::Read).unwrap_err();
    assert_eq!(
        foreign,
        Registry::new(&Bounds::default()).find("aa", &peer(1, false), Access::Read).map(|_| ()).unwrap_err()
    );
    assert!(registry.visible(&peer(1001, false)).is_empty());
    assert!(find(1001, true, Access::Control).is_ok());
    assert!(find(0, false, Access::Read).is_ok());
    assert_eq!(find(0, false, Access::Control).unwrap_err().rule.name(), "caller.root");
}

#[test]
fn a_name_that_another_user_took_as_well_is_not_theirs_to_catch() {
    let sessions = [session("aa0000000001", Some("web"), 1000), session("aa0000000002", Some("web"), 1001)];
    let registry = registry(&Bounds::default(), &sessions);
    let find = |uid| {
        let found = registry.find("web", &peer(uid, true), Access::Control);
        found.map(|s| s.id.to_string()).map_err(|r| r.rule.name())
    };
    assert_eq!(find(1000).unwrap(), "aa0000000001");
    assert_eq!(find(1001).unwrap(), "aa0000000002");
    assert_eq!(find(1002).unwrap_err(), "session.ambiguous");
}

#[test]
fn what_was_removed_is_for_admins() {
    let removed = session("aa0000000001", Some("web"), 1000);
    removed.change(|status| {
        (status.phase, status.ended_us) = (Phase::Cleared, Some(crate::clock::micros(SystemTime::now())))
    });
    let registry = registry(&Bounds::default(), &[removed.clone(), session("ab0000000001", None, 1000)]);
    registry.keep(1 << 40);
    registry.retire(&removed);
    let find =
        |text, uid, admin, access| registry.find(text, &peer(uid, admin), access).map_err(|r| r.rule.name());
    for text in ["aa0000000001", "aa", "web"] {
        assert_eq!(find(text, 1000, false, Access::Read).err(), Some("session.unknown"), "{text}");
    }
    assert!(find("aa0000000001", 1001, true, Access::Read).is_ok());
    assert!(find("aa0000000001", 0, false, Access::Read).is_ok());
    assert!(find("a", 1001, true, Access::Read).is_ok_and(|found| found.id.as_str() == "ab0000000001"));
    assert_eq!(find("aa0000000001", 1001, true, Access::Control).err(), Some("session.unknown"));
    assert_eq!(registry.visible(&peer(1000, false)).len(), 1);
    assert_eq!(registry.visible(&peer(1001, true)).len(), 2);
    // The name is free, and what was kept long enough goes.
    registry.insert(&session("ac0000000001", Some("web"), 1000)).unwrap();
    registry.keep(0);
    registry.adopt(&session("ad0000000001", None, 1000));
    assert!(find("aa0000000001", 0, false, Access::Read).is_err());
}

#[test]
fn caps_and_names_hold() {
    let bounds = Bounds { max_sessions: 2, max_sessions_per_user: 1, ..Bounds::default() };
    let first = session("aa0000000001", Some("a"), 1);
    let registry = registry(&bounds, std::slice::from_ref(&first));
    let insert =
        |id, name, uid| registry.insert(&session(id, name, uid)).map(drop).map_err(|r| r.rule.name());
    assert_eq!(insert("aa0000000002", None, 1).unwrap_err(), "bounds.max_sessions_per_user");
    insert("aa0000000003", Some("a"), 2).unwrap();
    assert_eq!(insert("aa0000000004", None, 3).unwrap_err(), "bounds.max_sessions");
    first.change(|status| status.phase = Phase::Cleared);
    insert("aa0000000005", Some("a"), 1).unwrap();
}
