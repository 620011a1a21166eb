//! Any two trees: applied, in part, killed anywhere, and taken back.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::killed::die_at;
use super::*;

#[derive(Clone, Debug)]
enum Node {
    File(u8, u32),
    Link(u8),
    Dir(u32, BTreeMap<u8, Node>),
}

fn node() -> impl Strategy<Value = Node> {
    let file = (0..3_u8, prop::sample::select(vec![0o644, 0o755, 0o444]))
        .prop_map(|(is, mode)| Node::File(is, mode));
    let leaf = prop_oneof![3 => file, 1 => (0..2_u8).prop_map(Node::Link)];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let mode = prop::sample::select(vec![0o755, 0o700, 0o555, 0o500]);
        (mode, children(inner)).prop_map(|(mode, all)| Node::Dir(mode, all))
    })
}

fn children(inner: impl Strategy<Value = Node>) -> impl Strategy<Value = BTreeMap<u8, Node>> {
    prop::collection::btree_map(0..4_u8, inner, 0..4)
}

fn make(at: &Path, all: &BTreeMap<u8, Node>) {
    for (name, node) in all {
        let at = at.join(name.to_string());
        match node {
            Node::File(is, mode) => write(&at, &[*is; 20], *mode),
            Node::Link(to) => std::os::unix::fs::symlink(to.to_string(), &at).unwrap(),
            Node::Dir(mode, all) => {
                mkdir(&at, 0o755);
                make(&at, all);
                chmod(&at, *mode);
            }
        }
    }
}

/// An ordinary user cannot remove what is in a directory that is read-only.
fn open_all(at: &Path) {
    for (name, (mode, _)) in snapshot(at) {
        if mode & 0o170_000 == 0o040_000 {
            chmod(&at.join(name), 0o755);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_two_trees(before in children(node()), after in children(node()), chosen in any::<u64>(), at in 0..120_u32) {
        let scene = Scene::new(|top| make(top, &before), |top| make(top, &after));
        let (old, new) = (scene.now(), snapshot(&scene.dir.path("merged")));
        let steps = scene.steps();

        // Some of the changes: made, or refused, and then nothing is.
        let some = steps.iter().enumerate().filter(|(number, _)| chosen >> (number % 64) & 1 == 1);
        match scene.apply(some.map(|(_, step)| step.clone()).collect(), &mut NoFaults) {
            Ok(_) => prop_assert!(scene.undo().is_ok()),
            Err(error) => prop_assert!(matches!(error, ApplyError::Conflicts(_)), "{}", error),
        }
        prop_assert_eq!(scene.now(), old.clone());

        // All of them, killed.
        if die_at(at, |faults| scene.apply(steps, faults).unwrap()).is_none() {
            while scene.recover(&mut NoFaults).unwrap().is_some() {}
            let now = scene.now();
            prop_assert!(now == old || now == new, "{:#?}", now);
            if now == old {
                scene.apply(scene.steps(), &mut NoFaults).unwrap();
            }
        }
        scene.assert_clean();
        prop_assert_eq!(scene.now(), new);
        scene.undo().unwrap();
        scene.assert_clean();
        prop_assert_eq!(scene.now(), old);
        open_all(&scene.workspace);
        open_all(&scene.dir.path("merged"));
    }
}
