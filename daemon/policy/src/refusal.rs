//! The one form of a "no".

use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// Why a request was refused: shown as `refused: WHAT (RULE): HINT`, on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what} ({rule}): {hint}")]
pub struct Refusal {
    /// The object that was refused, with the value at fault.
    pub what: String,
    /// The rule that it breaks.
    pub rule: Rule,
    /// What the caller can do about it.
    pub hint: String,
}

/// The longest part of a refusal, in bytes: what a hostile peer can make us repeat.
const PART: usize = 512;

impl Refusal {
    /// A refusal in three parts. Control characters are escaped and each text is cut to 512 bytes, so that
    /// the result is safe to print and to send.
    pub fn new(what: impl AsRef<str>, rule: Rule, hint: impl AsRef<str>) -> Self {
        Self { what: printable(what.as_ref()), rule, hint: printable(hint.as_ref()) }
    }
}

/// `text` on one line and without anything that steers a terminal, cut to a bounded length.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(PART));
    for c in text.chars() {
        if out.len() >= PART {
            out.push('…');
            break;
        }
        if c.is_control() || is_bidi(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that reorder what surrounds them (Trojan Source, CVE-2021-42574).
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_comes() {
        let refusal = Refusal::new("a\nb\x1b[2J\u{202e}", Rule::Default, "x".repeat(10_000));
        assert_eq!(refusal.what, "a\\u{a}b\\u{1b}[2J\\u{202e}");
        assert!(refusal.hint.len() <= PART + '…'.len_utf8());
        assert!(!refusal.to_string().contains('\n'));
    }
}
