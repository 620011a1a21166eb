//! Printing what came from elsewhere: escaped for people, valid for machines, coloured on terminals only.

use serde::Serialize;

use crate::failure::Failure;
use crate::pipes;
use crate::text::steers;
pub use crate::text::{clean, clean_lines, word, words};

/// `value` as JSON on one line; what steers a terminal is escaped as JSON does it.
///
/// # Errors
/// If `value` has no JSON form.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    let plain =
        serde_json::to_string(value).map_err(|error| Failure::failed(format!("cannot print: {error}")))?;
    if !plain.contains(steers) {
        return Ok(plain);
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        if steers(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// Writes to standard output, at once.
///
/// # Errors
/// [`Failure::output`].
pub fn print(text: &str) -> Result<(), Failure> {
    pipes::write(rustix::stdio::stdout(), text.as_bytes()).map_err(|error| Failure::output("stdout", &error))
}

/// Whether standard output is a terminal that takes colours.
pub fn colours() -> bool {
    let asked_not = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    !asked_not && !dumb && rustix::termios::isatty(rustix::stdio::stdout())
}

/// Rows under a heading, as wide as they need to be; the last column is cut so that a row fits `width`.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(rows) {
        let mut at = 0;
        for (i, (cell, wide)) in row.iter().zip(widths).enumerate() {
            if i + 1 < N {
                out.push_str(&format!("{cell:wide$}  "));
                at += wide + 2;
            } else {
                push_cut(&mut out, cell, width.map(|w| w.saturating_sub(at).max(8)));
            }
        }
        out.push('\n');
    }
    out
}

fn push_cut(out: &mut String, cell: &str, room: Option<usize>) {
    match room {
        Some(room) if cell.chars().count() > room => {
            out.extend(cell.chars().take(room - 1));
            out.push('…');
        }
        _ => out.push_str(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_see_no_controls() {
        assert_eq!(clean("plain ü"), "plain ü");
        assert_eq!(clean("a\nb\x1b[2J\u{202e}\u{9b}"), "a\\u{a}b\\u{1b}[2J\\u{202e}\\u{9b}");
        assert_eq!(clean_lines("a\n\tb\r"), "a\n\tb\\u{d}");
    }

    #[test]
    fn what_shows_nothing_is_shown() {
        for hidden in [
            '\u{ad}',
            '\u{115f}',
            '\u{200b}',
            '\u{200d}',
            '\u{2060}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{ffff}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ] {
            let name = format!("a{hidden}b");
            assert_eq!(clean(&name), format!("a\\u{{{:x}}}b", u32::from(hidden)));
            assert_eq!(serde_json::from_str::<String>(&json(&name).unwrap()).unwrap(), name);
            assert!(json(&name).unwrap().is_ascii() && !word(&name).contains(hidden));
        }
    }

    #[test]
    fn a_name_is_one_word() {
        for plain in ["/usr/bin/gcc-12", "x=[1,2](3)", "größe", "--flag", "a:b"] {
            assert_eq!(word(plain), plain);
        }
        for (name, shown) in [
            ("x claims [\"a\"] by", r#""x claims [\"a\"] by""#),
            ("", r#""""#),
            ("a\u{a0}b", "\"a\\u{a0}b\""),
            ("\"", r#""\"""#),
            (r"a\x", r#""a\\x""#),
        ] {
            assert_eq!(word(name), shown, "{name:?}");
        }
        assert_eq!(words(&["a".to_owned(), "b, c".to_owned()]), "a, \"b, c\"");
    }

    #[test]
    fn tables_line_up_and_are_cut() {
        let rows = [["a".to_owned(), "long command".to_owned()], ["bcdef".to_owned(), "x".to_owned()]];
        assert_eq!(table(["ID", "CMD"], &rows, Some(16)), "ID     CMD\na      long com…\nbcdef  x\n");
        assert_eq!(table(["ID", "CMD"], &[], None), "ID  CMD\n");
    }

    proptest! {
        #[test]
        fn json_stays_json_and_never_steers(text in any::<String>()) {
            let line = json(&text).unwrap();
            prop_assert!(!line.contains(steers));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }

        #[test]
        fn words_do_not_come_apart(text in any::<String>()) {
            let word = word(&text);
            prop_assert!(!word.contains(steers));
            prop_assert!(!word.contains(char::is_whitespace) || (word.starts_with('"') && word.ends_with('"')));
        }

        #[test]
        fn different_names_are_different_words(a in "[ab\\\\\"u{}x1 \u{200b}]{0,6}", b in "[ab\\\\\"u{}x1 \u{200b}]{0,6}") {
            prop_assert_eq!(word(&a) == word(&b), a == b);
        }

        #[test]
        fn clean_is_clean(text in any::<String>()) {
            prop_assert!(!clean(&text).contains(steers));
        }
    }
}
