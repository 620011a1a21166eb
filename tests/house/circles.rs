//! Modules of a crate do not import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{code, root, sources};

/// The sources of each crate whose modules are in layers.
const CRATES: &[&str] = &[
    "daemon/policy/src",
    "daemon/kernel/src",
    "daemon/launcher/src",
    "daemon/session/src",
    "daemon/protocols/src",
    "daemon/relay/src",
    "daemon/service/src",
    "client/src",
];

/// The module at the top of the crate that a file is a part of.
fn module(dir: &Path, file: &Path) -> String {
    let first = file.strip_prefix(dir).ok().and_then(|path| path.iter().next()).unwrap_or_default();
    let name = first.to_string_lossy();
    let name = name.strip_suffix(".rs").unwrap_or(&name);
    name.strip_suffix("_tests").unwrap_or(name).to_owned()
}

/// Which modules a text imports: the names behind `crate::`, also within braces.
fn imports(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = |text: &str| text.chars().take_while(|c| word(*c)).collect::<String>();
    let mut all = BTreeSet::new();
    for part in text.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            Some(list) => {
                all.extend(list.split('}').next().unwrap_or_default().split(',').map(|p| first(p.trim())))
            }
            None => drop(all.insert(first(part))),
        }
    }
    all
}

/// What can be reached from `start`.
fn reach<'a>(edges: &'a BTreeMap<String, BTreeSet<String>>, start: &'a str) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(at) = next.pop() {
        for to in edges.get(at).into_iter().flatten() {
            if found.insert(to.as_str()) {
                next.push(to);
            }
        }
    }
    found
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for dir in CRATES {
        let dir = root().join(dir);
        let mut files = Vec::new();
        sources(&dir, &mut files);
        let names: BTreeSet<String> = files.iter().map(|file| module(&dir, file)).collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in &files {
            let text = std::fs::read_to_string(file).expect("a source");
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            let from = module(&dir, file);
            let name = file.to_string_lossy();
            let tests = name.ends_with("tests.rs") || name.contains("/tests/");
            if tests || ["main", "lib"].contains(&from.as_str()) {
                continue;
            }
            let mut to = imports(&code(product));
            to.retain(|to| *to != from && names.contains(to));
            edges.entry(from).or_default().extend(to);
        }
        let circle = |name: &String| {
            let found = reach(&edges, name);
            found.contains(name.as_str()).then(|| {
                let back = found.iter().filter(|other| reach(&edges, other).contains(name.as_str()));
                back.map(|other| (*other).to_owned()).collect::<BTreeSet<_>>()
            })
        };
        let largest = names.iter().filter_map(circle).max_by_key(BTreeSet::len).unwrap_or_default();
        if !largest.is_empty() {
            wrong.push(format!("{}: in a circle: {largest:?}", dir.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
