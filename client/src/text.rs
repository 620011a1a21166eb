//! Texts from elsewhere, for people: nothing in them steers a terminal or passes for something else.

use std::borrow::Cow;

/// `text` on one line, without anything that steers a terminal or reorders what surrounds it.
pub fn clean(text: &str) -> Cow<'_, str> {
    clean_but(text, &[])
}

/// As [`clean`], with line ends and tabs left as they are.
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    clean_but(text, &['\n', '\t'])
}

/// `text` as one word of a line of several: in quotes, with what is in it escaped, unless it is plain. So no name can
/// be read as more than one word, or as a word of agentctl's own.
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || (c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\'));
    match !text.is_empty() && text.chars().all(|c| plain(c) && !steers(c)) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(clean(&format!("{text:?}")).into_owned()),
    }
}

/// Several of them, with commas between.
pub fn words<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().map(|text| word(text)).collect::<Vec<_>>().join(", ")
}

fn clean_but<'a>(text: &'a str, fine: &[char]) -> Cow<'a, str> {
    let bad = |c: char| steers(c) && !fine.contains(&c);
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// What must not reach a terminal as it is: control characters, line separators, characters that reorder (Trojan
/// Source, CVE-2021-42574), and those that show nothing, by which two texts that differ look alike: Unicode's default
/// ignorable code points (`DerivedCoreProperties.txt`), fillers that are blank, annotations and noncharacters.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d159}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(c) & 0xfffe == 0xfffe
        || matches!(c, '\u{fdd0}'..='\u{fdef}')
}
