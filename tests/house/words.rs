//! Words: those that a reader from outside would search for, in code, comments, messages and documents.

use std::path::{Path, PathBuf};

use super::{root, sources};

/// Names and phrases that nobody from outside would search for, and what stands in their place.
const WORDS: &[(&str, &str)] = &[
    ("WayOut", "EgressState"),
    ("way_out", "egress_state"),
    ("Hangups", "SighupStream"),
    ("WORKSHOP", "WRITABLE_EXEC"),
    ("Passage", "AcceptRule"),
    ("Birth", "CloneArgs"),
    ("furnish", "populate"),
    ("Killer", "EndRequest"),
    ("Seat", "Subscription"),
    ("Pulse", "Heartbeat"),
    ("Manner", "RejectWith"),
    ("spares", "prewarmed_sessions"),
    ("global_also", "allow_private_ranges"),
    ("root_callers", "allow_root"),
    ("mend", "hint, fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("turns bad", "is compromised"),
    ("lonely", "orphan_deadline"),
    ("is_felt", "is_alive"),
    ("what it meets", "result"),
    ("PATIENCE", "what it bounds: CONNECT_TIMEOUT"),
    ("Told", "what it is: Audit, Message"),
    ("told", "sent, logged, reported"),
    ("tell", "send, report"),
    ("tells", "sends, reports"),
    ("hear", "recv, read, handle"),
    ("hears", "receives, reads, handles"),
    ("heard", "received, read"),
    ("obey", "handle"),
    ("Wish", "Access"),
    ("Ample", "Large"),
    ("by what right", "authorization"),
    ("authorities", "CA bundle, trust anchors"),
    ("taken over", "compromised"),
    ("says nothing", "idle, silent"),
    ("in a world of its own", "in its own sandbox"),
    ("no reason to trust", "untrusted"),
    ("leads nowhere", "dead"),
    ("cannot be told", "cannot be audited, is unknown"),
    ("passed over", "skipped"),
    ("as honest as", "as trustworthy as"),
    ("way out", "egress"),
    ("out of form", "malformed"),
    ("for want of", "without"),
    ("whoever", "a process, a user"),
];

/// Old names of keys, which are shown to who writes them, and a field of hickory's.
const INNOCENT: &[&str] = &[
    "(\"root_callers\"",
    "(\"spares\"",
    "(\"global_also\"",
    "\"spares = 1\"",
    "global_also = []",
    "message.authorities",
];

/// How often `word` stands in `text`. It begins and ends where no letter, digit or `_` is; one in capitals is counted
/// as a part of a name too.
fn occurrences(text: &str, word: &str) -> usize {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let anywhere = word.chars().all(|c| c.is_ascii_uppercase());
    let alone =
        |at: usize| !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next());
    text.match_indices(word).filter(|(at, _)| anywhere || alone(*at)).count()
}

/// One line a paragraph: a phrase may go on behind the next comment sign.
fn joined(text: &str) -> String {
    let sign =
        |line: &'static str| move |text: &str| text.starts_with(line).then(|| text[line.len()..].to_owned());
    let signs = [sign("/// "), sign("//! "), sign("// "), sign("# ")];
    let line = |line: &str| {
        let line = line.trim();
        signs.iter().find_map(|sign| sign(line)).unwrap_or_else(|| line.to_owned())
    };
    text.lines().map(line).collect::<Vec<_>>().join(" ")
}

/// What is written for readers: sources, documents, manual pages, packaging.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let left_out = ["target", "corpus", "house", "Cargo.lock", "CHANGELOG.md", "__pycache__", ".git"];
        if left_out.contains(&name.as_ref()) {
            continue;
        }
        if path.is_dir() {
            files(&path, into);
        } else if !name.ends_with(".golden") {
            into.push(path);
        }
    }
}

#[test]
fn words_are_those_of_the_field() {
    let mut paths = Vec::new();
    files(&root(), &mut paths);
    let mut found = Vec::new();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let mut text = joined(&text);
        for innocent in INNOCENT {
            text = text.replace(innocent, "");
        }
        for (word, instead) in WORDS {
            let times = occurrences(&text, word);
            if times > 0 {
                found.push(format!("{}: {times} {word:?}: {instead}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Doc comments of one or two words: the name says as much, or should.
#[test]
fn no_doc_comment_is_one_or_two_words() {
    let mut paths = Vec::new();
    sources(&root(), &mut paths);
    let mut found = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source");
        let mut lines = text.lines().enumerate().peekable();
        while let Some((at, line)) = lines.next() {
            let Some(mark) = ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark))
            else {
                continue;
            };
            let of =
                |line: &str| line.trim_start().strip_prefix(mark).map(|rest| rest.split_whitespace().count());
            let mut words = of(line).unwrap_or(0);
            while let Some(more) = lines.peek().and_then(|(_, line)| of(line)) {
                words += more;
                lines.next();
            }
            if words <= 2 {
                found.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Lines of comments: 120 characters at most. rustfmt holds the width of code alone.
#[test]
fn comments_are_120_characters_wide_at_most() {
    let mut paths = Vec::new();
    sources(&root(), &mut paths);
    let mut found = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source");
        let wide = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > 120;
        for (at, _) in text.lines().enumerate().filter(|(_, line)| wide(line)) {
            found.push(format!("{}:{}", path.display(), at + 1));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
