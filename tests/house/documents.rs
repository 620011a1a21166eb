//! Documents: their links lead somewhere, and the tests that they name exist where they say.

use std::path::{Path, PathBuf};

use super::root;

/// Every document of the workspace.
fn documents() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "tests/README.md"]
        .map(|name| root().join(name))
        .into();
    let docs = std::fs::read_dir(root().join("docs")).expect("documents").flatten().map(|entry| entry.path());
    all.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    all.sort();
    all
}

/// The links of a document: what each leads to, and the text behind it up to the next one.
fn links(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("](").skip(1).filter_map(|part| part.split_once(')'))
}

/// Whether `text` has a test function `name`, or it is a case of a table: in `tests![…]`, or a string
/// `name` or `…::name`.
fn has_test(text: &str, name: &str) -> bool {
    let test = |(at, _): (usize, &str)| {
        let above = text[..at].trim_end();
        let attributes = above.rsplit("\n\n").next().unwrap_or_default();
        attributes.contains("#[test]") || attributes.contains("#[tokio::test")
    };
    let alone = name.rsplit("::").next().unwrap_or(name);
    let case = |end: &str| [format!("\"{name}\"{end}"), format!("::{name}\"{end}")];
    let listed =
        |list: &str| list.split(']').next().unwrap_or_default().split([',', '\n', ' ']).any(|n| n == alone);
    text.match_indices(&format!("fn {alone}(")).any(test)
        || text.split("tests![").skip(1).any(listed)
        || [",", ")"].iter().any(|end| case(end).iter().any(|case| text.contains(case)))
}

/// Whether the suite of `file` has a case `name` that is in `file`: `("…::name", …, module::function)`.
fn in_table_of_suite(file: &Path, name: &str) -> bool {
    let Some(module) = file.file_stem().and_then(|stem| stem.to_str()) else { return false };
    let text = std::fs::read_to_string(file.with_file_name("main.rs")).unwrap_or_default();
    [format!("\"{name}\""), format!("::{name}\"")].iter().any(|case| {
        text.match_indices(case.as_str()).any(|(at, _)| {
            let rest = text[at..].split("),\n").next().unwrap_or_default();
            rest.contains(&format!("{module}::"))
        })
    })
}

#[test]
fn releases_have_dates() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("the changelog");
    let mut sections = text.lines().filter_map(|line| line.strip_prefix("## "));
    assert_eq!(sections.next(), Some("[Unreleased]"));
    for section in sections {
        let date = section.split_once("] - ").map(|(_, date)| date.as_bytes());
        let form = |date: &[u8]| date.iter().zip(b"0000-00-00").all(|(b, f)| (*f == b'-') == (*b == b'-'));
        assert!(date.is_some_and(|date| date.len() == 10 && form(date)), "{section}");
    }
}

#[test]
fn links_lead_to_files() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for (target, _) in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.starts_with("http") && !document.with_file_name(file).exists() {
                missing.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Fences have a language; commands run in the suite `documents`, or their fence has a reason why they cannot.
#[test]
fn fences_have_a_language_and_reasons() {
    let mut wrong = Vec::new();
    for document in documents().iter().filter(|path| !path.ends_with("CONTRIBUTING.md")) {
        let text = std::fs::read_to_string(document).expect("a document");
        let fences = text.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        for info in fences.step_by(2) {
            let (language, words) = info.split_once(' ').unwrap_or((info, ""));
            let known = ["sh", "console", "text", "toml", "yaml", "ini", "json"].contains(&language);
            let reason = words.strip_prefix("notest:");
            let named =
                words.strip_prefix("session:").is_some_and(|name| !name.is_empty() && !name.contains(' '));
            if !known
                || !(words.is_empty() || named || words == "as:admin" || reason.is_some_and(|r| r.len() > 5))
            {
                wrong.push(format!("{}: ```{info}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// After a link into tests, names in backquotes are tests of that file until something else comes.
#[test]
fn the_tests_that_documents_name_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for (target, behind) in links(&text) {
            let file = document.with_file_name(target.split('#').next().unwrap_or_default());
            if !target.contains("tests/") || file.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let tests = std::fs::read_to_string(&file).unwrap_or_default();
            let mut rest = behind.trim_start_matches([':', ' ', '\n']);
            // A type or function of the harness is no test.
            if !behind.starts_with(':') {
                continue;
            }
            while let Some((name, after)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
                if !has_test(&tests, name) && !in_table_of_suite(&file, name) {
                    missing.push(format!("{}: {target}: {name}", document.display()));
                }
                rest = after.trim_start_matches([' ', '\n', ',']);
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
