//! What agents write on terminals.

use std::sync::Once;

use agentd_protocols::terminal::filter::Filter;
use agentd_protocols::terminal::screen::{Screen, quiet_panics};
use bytes::Bytes;
use vte::{Params, Parser, Perform};

/// The client's filter: the same passes whatever the pieces; it passes again; and a terminal that reads it is asked
/// for nothing that goes beyond it.
pub fn filter(bytes: &[u8]) {
    let whole = passed(bytes, bytes.len().max(1));
    assert_eq!(passed(bytes, 1), whole);
    assert_eq!(passed(bytes, 7), whole);
    let again = passed(&whole, whole.len().max(1));
    // The first byte of a character waits for its second.
    assert!(whole.starts_with(&again) && whole.len() - again.len() <= 1);
    // A character that is replaced has a byte, and its replacement three.
    assert!(whole.len() <= 3 * bytes.len());
    Parser::new().advance(&mut Asked, &whole);
}

fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut filter = Filter::default();
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        out.extend(filter.pass(Bytes::copy_from_slice(piece)));
    }
    let undone = filter.undo();
    assert_eq!(Filter::default().pass(undone.clone()), undone);
    out
}

/// A terminal, as far as it could be made to answer, or to reach beyond what it shows.
struct Asked;

impl Perform for Asked {
    fn execute(&mut self, byte: u8) {
        assert_ne!(byte, 5, "ENQ");
    }

    fn hook(&mut self, _: &Params, _: &[u8], _: bool, action: char) {
        panic!("a device control string: {action:?}");
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _: bool) {
        let [number, rest @ ..] = params else { return };
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<u16>().ok());
        let colour = matches!(number, Some(4 | 5 | 10..=19 | 104 | 105 | 110..=119));
        assert!(colour || matches!(number, Some(8 | 9 | 133 | 777)), "operating system command {params:?}");
        assert!(
            !colour || !rest.iter().any(|value| value.contains(&b'?')),
            "a colour is asked for: {params:?}"
        );
    }

    fn csi_dispatch(&mut self, _: &Params, intermediates: &[u8], _: bool, action: char) {
        let answers = matches!(
            (intermediates, action),
            ([] | [b'>'] | [b'='], 'c')
                | ([] | [b'?'], 'n')
                | ([], 'x' | 't' | 'i')
                | ([b'>'], 'q' | 't' | 'T')
                | ([b'?'], 'u' | 'm' | 'S' | 'i')
                | ([.., b'$'], 'p' | 'w' | 'u')
                | ([.., b'*'], 'y')
        );
        assert!(!answers, "a control sequence that is answered: {intermediates:?} {action:?}");
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        assert!(!(intermediates.is_empty() && byte == b'Z'), "DECID");
    }
}

/// The relay's screen of a terminal: what shows it to somebody else is bounded, and shows them the same. Two bytes are
/// its size; behind each 0xff it gets another, of the two bytes that follow.
pub fn screen(bytes: &[u8]) {
    static QUIET: Once = Once::new();
    // A panic of the library's is caught, and is none for the fuzzer.
    QUIET.call_once(quiet_panics);
    let mut screen = None;
    let mut size = (0, 0);
    for part in bytes.split(|byte| *byte == 0xff) {
        let (rows, columns, written) = match part {
            [rows, columns, written @ ..] => (u16::from(*rows) % 100, u16::from(*columns), written),
            _ => continue,
        };
        size = (rows, columns);
        let screen = screen.get_or_insert_with(|| Screen::new(rows, columns));
        screen.resize(rows, columns);
        screen.write(written);
    }
    let Some(mut screen) = screen else { return };
    let shown = screen.show();
    // A place has at most a character with what combines with it, and the sequences that colour it.
    let places = usize::from(size.0.max(24)) * usize::from(size.1.max(80));
    assert!(shown.len() <= 2 * places * 128 + 4096);
    let mut other = Screen::new(size.0, size.1);
    other.write(&shown);
    other.show();
}
