//! Texts from elsewhere, cut to what an event may hold.

/// The longest path and argument of an event, in bytes.
const TEXT: usize = 4096;
/// The most arguments of an event, and their bytes together.
const ARGUMENTS: (usize, usize) = (256, 16 << 10);
/// `text` cut to what an event may hold.
pub fn bounded(text: &str) -> String {
    cut(text, TEXT)
}

/// `text` cut to `most` bytes.
pub fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let kept = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= most).last();
    format!("{}…", &text[..kept.unwrap_or(0)])
}

/// `argv` cut to what an event may hold.
pub fn arguments(argv: &[String]) -> Vec<String> {
    let (count, mut room) = ARGUMENTS;
    let mut kept = Vec::new();
    for argument in argv.iter().take(count) {
        kept.push(cut(argument, room.min(TEXT)));
        room = room.saturating_sub(argument.len());
    }
    if argv.len() > count {
        kept.push("…".to_owned());
    }
    kept
}
