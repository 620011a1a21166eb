//! Counts that only fall: what a rule finds today, by crate, in `ceilings.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::root;

/// How far a count may be below its ceiling before the ceiling has to follow.
const SLACK: usize = 40;

/// The crate, or the directory of documents, that a file is a part of; `.` for the workspace's own.
pub(super) fn part(path: &Path) -> String {
    let below = path.strip_prefix(root()).expect("a file of the workspace");
    let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
    match names.as_slice() {
        [_] | [] => ".".to_owned(),
        [first, second, _, ..] if first == "daemon" => format!("daemon/{second}"),
        [first, ..] => first.to_string(),
    }
}

/// The ceilings of `rule`, by crate. A crate without a line has 0.
fn ceilings(text: &str, rule: &str) -> BTreeMap<String, usize> {
    let of_rule = text.lines().filter_map(|line| line.strip_prefix(rule)?.strip_prefix(' '));
    of_rule
        .map(|line| {
            let (part, count) = line.split_once(' ').expect("a crate and a count");
            (part.to_owned(), count.trim().parse().expect("a count"))
        })
        .collect()
}

/// Holds `found`, places by crate, against the ceilings of `rule`. With `UPDATE_GOLDEN` set, the ceilings become what
/// was found, unless there is more of it in all.
pub(super) fn only_fall(rule: &str, found: &BTreeMap<String, Vec<String>>) {
    let path: PathBuf = root().join("tests/house/ceilings.txt");
    let text = std::fs::read_to_string(&path).expect("the ceilings");
    let held = ceilings(&text, rule);
    let count = |part: &str| found.get(part).map_or(0, Vec::len);
    let mut wrong = Vec::new();
    for part in held.keys().chain(found.keys().filter(|part| !held.contains_key(*part))) {
        let (now, ceiling) = (count(part), held.get(part).copied().unwrap_or(0));
        if now > ceiling {
            let mut places: BTreeMap<&String, usize> = BTreeMap::new();
            found[part].iter().for_each(|place| *places.entry(place).or_default() += 1);
            let list: String = places.iter().map(|(place, times)| format!("\n  {times} {place}")).collect();
            wrong.push(format!("{rule}: {part}: {now}, more than {ceiling}:{list}"));
        } else if now + SLACK < ceiling || (now == 0 && ceiling > 0) {
            wrong.push(format!("{rule}: {part}: {now}, {ceiling} are held"));
        }
    }
    if wrong.is_empty() {
        return;
    }
    let sum: usize = found.values().map(Vec::len).sum();
    if std::env::var_os("UPDATE_GOLDEN").is_some() && sum <= held.values().sum() {
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.starts_with(&format!("{rule} "))).map(str::to_owned).collect();
        lines.extend(found.iter().map(|(part, places)| format!("{rule} {part} {}", places.len())));
        lines.sort();
        std::fs::write(&path, lines.join("\n") + "\n").expect("to write the ceilings");
        return;
    }
    let how = "UPDATE_GOLDEN=1 cargo test -p agentd-tests --test house -- --test-threads 1";
    panic!("{}\n\nwhere there are fewer now, or a file has moved: {how}", wrong.join("\n"));
}
