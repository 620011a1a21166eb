use std::cell::RefCell;
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::hosts::HostName;
use crate::rule::Rule;

fn names(text: &[u8]) -> Result<(Vec<(bool, String)>, Summary), ListError> {
    let mut names = Vec::new();
    let summary = read(text, |scope, name| names.push((scope == Scope::Exact, name.to_string())))?;
    Ok((names, summary))
}

fn just(text: &str) -> Vec<String> {
    let (names, summary) = names(text.as_bytes()).unwrap();
    assert_eq!((summary.odd, summary.names as usize), (0, names.len()), "{text}");
    names.into_iter().map(|(_, name)| name).collect()
}

fn table(lists: &[&str]) -> Blocklist {
    let labels = (0..lists.len()).map(|n| Label::parse(&format!("l{n}")).unwrap()).collect();
    let mut compiler = Compiler::new([3; KEY], labels);
    for (number, list) in (0..).zip(lists) {
        read(list.as_bytes(), |scope, name| compiler.add(number, scope, name)).unwrap();
    }
    opened(compiler).unwrap()
}

fn bytes(compiler: Compiler) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = compiler.finish(|piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, ()>(())
    });
    written.unwrap();
    bytes
}

fn opened(compiler: Compiler) -> Result<Blocklist, TableError> {
    of(bytes(compiler))
}

fn of(bytes: Vec<u8>) -> Result<Blocklist, TableError> {
    let size = bytes.len() as u64;
    Blocklist::open(size, move |buffer, offset| {
        let start = usize::try_from(offset).unwrap();
        let from = bytes.get(start..start + buffer.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    })
}

fn rule(table: &Blocklist, name: &str) -> Option<String> {
    table.check(&HostName::parse(name).unwrap()).err().map(|denial| denial.to_string())
}

#[test]
fn a_hosts_file_means_just_its_names() {
    let text = "\u{feff}# Title: x\r\n127.0.0.1 localhost\r\n127.0.0.1 localhost.localdomain\n::1 ip6-localhost ip6-loopback\n\
        255.255.255.255\tbroadcasthost\nfe80::1%lo0 localhost\nff02::1 ip6-allnodes\n0.0.0.0 0.0.0.0\n\n\
        0.0.0.0 ads.example # why\n0.0.0.0\tA.example b.example  c.example\n127.0.0.1 d.example.\n:: e.example\n::1 f_.example";
    let wanted =
        ["ads.example", "a.example", "b.example", "c.example", "d.example", "e.example", "f_.example"];
    assert_eq!(just(text), wanted);
    let (names, _) = names(text.as_bytes()).unwrap();
    assert!(names.iter().all(|(exact, _)| *exact));
}

#[test]
fn a_list_of_names_means_all_below_them() {
    let text = "[Adblock Plus]\n! Title\n# x\nads.example\n*.b.example\n||c.example^\n  D.example.  # why\n||e.example^ # x";
    assert_eq!(just(text), ["ads.example", "b.example", "c.example", "d.example", "e.example"]);
    let (names, _) = names(text.as_bytes()).unwrap();
    assert!(names.iter().all(|(exact, _)| !exact));
}

/// A list that is good but for `line`: what is said of that.
fn odd(form: &str, line: &str) -> String {
    let good = |n| format!("{form}n{n}.example\n");
    let text: String = (0..100).map(good).chain([format!("{line}\n"), good(100)]).collect();
    let (names, summary) = names(text.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!((names.len(), summary.names, summary.odd), (101, 101, 1), "{line}");
    assert!(summary.reasons[0].starts_with("line 101: "), "{summary:?}");
    summary.reasons.concat()
}

#[test]
fn what_is_not_understood_in_full_is_not_taken_at_all() {
    for line in [
        "a.example##.banner",
        "a.example#@#.banner",
        "||a.example^$third-party",
        "||a.example",
        "||a.example^b",
        "|a.example^",
        "||*.a.example^",
        "a.*.example",
        "*.*.example",
        ".a.example",
        "a.example b.example",
        "a.example/path",
        "http://a.example",
        "address=/a.example/",
        "a..example",
        "1.2.3",
        "0.0.0.0 a.example",
        "127.0.0.1",
        "localhost",
        "gööd.example",
    ] {
        odd("", line);
    }
    for line in [
        "0.0.0.0 a.example b!.example",
        "0.0.0.0 *.a.example",
        "93.184.216.34 a.example",
        "127.0.1.1 a",
        "127.0.1.1.1 a.example",
        "0.0.0.0",
        "a.example",
        "0.0.0.0 a.example#x",
    ] {
        odd("0.0.0.0 ", line);
    }
    assert!(odd("", &"a".repeat(MAX_LINE + 1)).contains("longer than 4096 bytes"));
    assert!(odd("", &format!("{}.example", "a.".repeat(9999))).contains("longer than 4096 bytes"));
    // In a piece that begins within a line as well, and in bytes of any kind.
    let (_, summary) = names(&[&b"n.example\n".repeat(100)[..], b"a\xff\0.example"].concat()).unwrap();
    assert_eq!(summary.reasons, ["line 101: not UTF-8"]);
}

#[test]
fn too_much_of_that_is_no_list() {
    let line = |text: &str| names(text.as_bytes()).unwrap_err().to_string();
    assert!(line("a.example\nb!.example\n").starts_with("line 2: the name holds '!'"));
    assert!(line(&("n.example\n".repeat(199) + "x y\nz w\n")).starts_with("line 200: neither "));
    for nothing in ["", "\n\n", "# x\n", "127.0.0.1 localhost"] {
        assert_eq!(names(nothing.as_bytes()), Err(ListError::Nothing), "{nothing}");
    }
    let exception = line(&("n.example\n".repeat(500) + "@@||good.example^\n"));
    assert!(exception.starts_with("line 501: an exception"), "{exception}");
    assert!(line("<!DOCTYPE html>\n<html>\n").starts_with("line 1: "));
}

#[test]
fn a_file_is_what_its_name_says_and_roots_alone() {
    let file = |text: &str| ListFile::try_from(text.to_owned());
    assert_eq!(file("/etc/x/ads.hosts").unwrap().label.as_str(), "ads");
    assert_eq!(file("/etc/x/a.b-c_d.txt").unwrap().label.as_str(), "a.b-c_d");
    assert_eq!(file("/ads").unwrap().label.as_str(), "ads");
    for bad in ["ads.hosts", "/etc/../ads", "/etc/.hosts", "/etc/a b.txt", "/etc/\u{1b}.txt"] {
        assert!(file(bad).is_err(), "{bad}");
    }
    assert!(file(&format!("/{}.txt", "a".repeat(64))).is_err());
    assert_eq!(check_file(true, 1, 0, 0o100_644), Ok(()));
    for bad in [
        check_file(false, 1, 0, 0o644),
        check_file(true, MAX_FILE + 1, 0, 0o644),
        check_file(true, 1, 1, 0o644),
        check_file(true, 1, 0, 0o664),
        check_file(true, 1, 0, 0o640),
    ] {
        assert!(bad.is_err());
    }
}

#[test]
fn a_name_is_found_by_its_list() {
    let table = table(&["0.0.0.0 a.example\n0.0.0.0 both.example", "both.example\nb.example\n"]);
    assert_eq!(table.names(), 4);
    assert_eq!(rule(&table, "a.example").as_deref(), Some("blocklist l0"));
    assert_eq!(rule(&table, "x.a.example"), None);
    assert_eq!(rule(&table, "b.example").as_deref(), Some("blocklist l1"));
    assert_eq!(rule(&table, "x.y.b.example").as_deref(), Some("blocklist l1"));
    assert_eq!(rule(&table, "xb.example"), None);
    assert_eq!(rule(&table, "example"), None);
    assert_eq!(rule(&table, "both.example").as_deref(), Some("blocklist l0"));
    assert_eq!(rule(&table, "x.both.example").as_deref(), Some("blocklist l1"));
}

#[test]
fn of_many_names_each_is_found_with_a_few_reads() {
    const MANY: u32 = 100_000;
    let mut compiler = Compiler::new([9; KEY], vec![Label::parse("l").unwrap()]);
    for n in 0..MANY {
        compiler.add(0, Scope::Exact, &HostName::parse(&format!("n{n}.example")).unwrap());
    }
    let bytes = bytes(compiler);
    assert_eq!(bytes.len(), HEADER + 9 * MANY as usize);
    let reads = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = reads.clone();
    let list = Blocklist::open(bytes.len() as u64, move |buffer, offset| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        buffer.copy_from_slice(&bytes[usize::try_from(offset).unwrap()..][..buffer.len()]);
        Ok(())
    });
    let list = list.unwrap();
    for n in 0..MANY {
        assert!(rule(&list, &format!("n{n}.example")).is_some(), "{n}");
        assert_eq!(rule(&list, &format!("m{n}.example")), None, "{n}");
    }
    // Four look-ups in most, and a label.
    let each = reads.load(std::sync::atomic::Ordering::Relaxed) / MANY;
    assert!(each < 12, "{each} reads");
}

#[test]
fn a_table_that_is_none_denies_or_is_refused() {
    let mut compiler = Compiler::new([1; KEY], vec![Label::parse("l").unwrap()]);
    compiler.add(0, Scope::Exact, &HostName::parse("a.example").unwrap());
    let good = bytes(compiler);
    assert!(of(good.clone()).is_ok());
    for (at, byte) in [(0, b'x'), (24, 2), (28, 17), (32, 0), (32, 64), (33, b'\n')] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(of(bad).is_err(), "{at}");
    }
    for length in [0, 7, HEADER - 1, HEADER, good.len() - 1] {
        assert!(of(good[..length].to_vec()).is_err(), "{length}");
    }
    // A list that it does not have.
    let mut bad = good.clone();
    *bad.last_mut().unwrap() = 1;
    assert_eq!(rule(&of(bad).unwrap(), "a.example").as_deref(), Some("blocklist.unreadable"));
    let header = good[..HEADER].to_vec();
    let broken = Blocklist::open(good.len() as u64, move |buffer, offset| {
        if offset > 0 {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        buffer.copy_from_slice(&header);
        Ok(())
    });
    let denied = broken.unwrap().check(&HostName::parse("b.example").unwrap());
    assert_eq!(denied, Err(Rule::BlocklistUnreadable.into()));
}

proptest! {
    /// However the bytes come, the same is read; and no name is taken that is not there as a word.
    #[test]
    fn nothing_is_taken_that_is_not_written(
        lines in prop::collection::vec("[ab.*#|^@! 0-9:\t-]{0,24}|0\\.0\\.0\\.0 [a-c.]{1,8}|(\\|\\||\\*\\.)?[a-c.]{1,9}\\^?", 0..40),
        cut in 1..64_usize,
    ) {
        let text = lines.join("\n");
        let taken = RefCell::new(Vec::new());
        let each = |scope, name: &HostName| taken.borrow_mut().push((scope == Scope::Exact, name.to_string()));
        let mut reader = Reader::default();
        let fed = text.as_bytes().chunks(cut).try_for_each(|piece| reader.feed(piece, each));
        let said = fed.and_then(|()| reader.finish(each));
        match names(text.as_bytes()) {
            Ok((names, summary)) => {
                prop_assert_eq!(said, Ok(summary));
                prop_assert_eq!(taken.into_inner(), names.clone());
                let words: HashSet<&str> = text.split_ascii_whitespace().collect();
                for (exact, name) in names {
                    let forms = [name.clone(), format!("{name}."), format!("*.{name}"), format!("||{name}^"), format!("*.{name}."), format!("||{name}.^")];
                    let forms = if exact { &forms[..2] } else { &forms[..] };
                    prop_assert!(forms.iter().any(|form| words.contains(form.as_str())), "{}", name);
                }
            }
            Err(error) => prop_assert_eq!(said, Err(error)),
        }
    }

    /// Of bytes of any kind, nothing panics.
    #[test]
    fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..400)) {
        names(&text).ok();
    }

    /// A table says what its names say.
    #[test]
    fn a_table_is_its_names(
        exact in prop::collection::hash_set("[a-c]{1,2}(\\.[a-c]{1,2}){0,3}", 0..30),
        below in prop::collection::hash_set("[a-c]{1,2}(\\.[a-c]{1,2}){0,3}", 0..30),
        asked in prop::collection::vec("[a-c]{1,2}(\\.[a-c]{1,2}){0,4}", 1..60),
    ) {
        let mut compiler = Compiler::new([5; KEY], vec![Label::parse("l").unwrap()]);
        for (scope, names) in [(Scope::Exact, &exact), (Scope::Below, &below)] {
            names.iter().for_each(|name| compiler.add(0, scope, &HostName::parse(name).unwrap()));
        }
        let table = opened(compiler).unwrap();
        for name in asked {
            let parents = std::iter::successors(Some(name.as_str()), |name| name.split_once('.').map(|(_, rest)| rest));
            let listed = exact.contains(&name) || parents.into_iter().any(|parent| below.contains(parent));
            prop_assert_eq!(rule(&table, &name).is_some(), listed, "{}", name);
        }
    }

    /// Whatever a table holds, a look-up ends and does not panic.
    #[test]
    fn any_table_is_looked_up_in(
        hashes in prop::collection::vec(any::<u64>(), 0..3000),
        name in "[a-c]{1,2}(\\.[a-c]{1,2}){0,3}",
    ) {
        let mut forged = bytes(Compiler::new([5; KEY], vec![Label::parse("l").unwrap()]));
        forged[24..28].copy_from_slice(&u32::try_from(hashes.len()).unwrap().to_le_bytes());
        forged.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        forged.extend(hashes.iter().map(|hash| hash.to_le_bytes()[0]));
        let _ = rule(&of(forged).unwrap(), &name);
    }
}
