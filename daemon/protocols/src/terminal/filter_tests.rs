use super::*;
use proptest::prelude::*;

fn filter(bytes: &[u8]) -> Vec<u8> {
    Filter::default().pass(Bytes::copy_from_slice(bytes)).to_vec()
}

#[track_caller]
fn passes(bytes: &[u8]) {
    assert_eq!(filter(bytes).escape_ascii().to_string(), bytes.escape_ascii().to_string());
}

#[track_caller]
fn becomes(bytes: &[u8], expected: &[u8]) {
    assert_eq!(filter(bytes).escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// Ordinary sequences of full-screen programs.
const FINE: &[&[u8]] = &[
    b"\x1b[0m",
    b"\x1b[38;2;1;2;3m",
    b"\x1b[4:3m",
    b"\x1b[2J\x1b[H",
    b"\x1b[10;20H",
    b"\x1b[?25l\x1b[?25h",
    b"\x1b[?0c",
    b"\x1b[?1049h\x1b[?2004h\x1b[?1004l",
    b"\x1b[?2026h",
    b"\x1b[3 q",
    b"\x1b[!p",
    b"\x1b[>4;2m",
    b"\x1b[>1u\x1b[<u",
    b"\x1b[1;1;4;4$z",
    b"\x1b(0lqk\x1b(B",
    b"\x1b7\x1b8\x1bM\x1b=\x1b>\x1bc",
    b"\x1b#8",
    b"\x1b]8;;https://example.org/?q=1\x07link\x1b]8;;\x07",
    b"\x1b]11;#102030\x1b\\",
    b"\x1b]104\x07",
    b"\x1b]133;A\x07",
    b"\x1b]9;4;1;50\x07",
    "h\u{fc}\u{20ac}\u{1f600}".as_bytes(),
    b"\r\n\t\x08\x0e\x0f\x07",
];

/// Clipboard, title, and what makes a terminal answer or leave the language that we know.
const FOUL: &[&[u8]] = &[
    b"\x1b]52;c;aGk=\x07",
    b"\x1b]52;c;?\x1b\\",
    b"\x1b]052;c;?\x1b\\",
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1b];title\x07",
    b"\x1b]ltitle\x1b\\",
    b"\x1b]11;?\x07",
    b"\x1b]110;?\x07",
    b"\x1b]4;1;?\x07",
    b"\x1b]50;?\x07",
    b"\x1b]1337;Copy=:aGk=\x07",
    b"\x1b]9;7;calc\x07",
    b"\x1b]5522;type=write\x1b\\",
    b"\x1bktitle\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1bP$qm\x1b\\",
    b"\x1b_Gi=1,a=q;AAAA\x1b\\",
    b"\x1b^x\x1b\\",
    b"\x1bXx\x1b\\",
    b"\x1b[c",
    b"\x1b[>c",
    b"\x1b[=0c",
    b"\x1b[?2048h",
    b"\x1b         G",
    b"\x1b#########8",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?996n",
    b"\x1b[21t",
    b"\x1b[22;0;0t",
    b"\x1b[>q",
    b"\x1b[x",
    b"\x1b[?2026$p",
    b"\x1b[/$p",
    b"\x1b[$/p",
    b"\x1b[1;1;1;1;5;5*y",
    b"\x1b[?u",
    b"\x1b[?4m",
    b"\x1b[?1;1;0S",
    b"\x1b[1$w",
    b"\x1b[5i",
    b"\x1b[?25;2l",
    b"\x1b[?038h",
    b"\x1b[?66539h",
    b"\x1b[?1003:1h",
    b"\x1b[?25;25;25;25;25;25;25;25;25;25;25;25;25;25;25;25;1000l",
    b"\x1b[65538h",
    b"\x1b[62;0\"p",
    b"\x1bZ",
    b"\x1b%@",
    b"\x1b G",
    b"\x05",
];

#[test]
fn ordinary_output_passes() {
    for bytes in FINE {
        passes(bytes);
    }
}

#[test]
fn what_is_foul_is_left_out() {
    for bytes in FOUL {
        becomes(&[b"a", *bytes, b"b"].concat(), b"ab");
    }
}

#[test]
fn eight_bit_controls_start_nothing() {
    becomes(b"\x9d52;c;x\x07", "\u{fffd}52;c;x\x07".as_bytes());
    becomes("\u{9b}6n".as_bytes(), "\u{fffd}6n".as_bytes());
    // Overlong and cut characters cannot hide one.
    becomes(b"\xc0\x9b6n", b"\xc0\xef\xbf\xbd6n");
    becomes(b"\xc2\x1b]52;;x\x07\x9b6n", b"\xc2\xef\xbf\xbd6n");
    becomes(b"\xe0\x80\x9b", b"\xe0\xef\xbf\xbd\xef\xbf\xbd");
    // Nor can a hyperlink that one terminal ends earlier than another.
    becomes("\x1b]8;;\u{9c}\u{9b}6n\x07".as_bytes(), b"");
    // Bytes of other character sets are nobody's control.
    passes(b"gr\xfc\xdfe");
}

#[test]
fn wrapped_for_a_multiplexer_it_is_still_foul() {
    let out = filter(b"\x1bPtmux;\x1b\x1b]52;c;x\x07\x1b\\");
    assert!(!out.windows(3).any(|w| w == b"]52"), "{}", out.escape_ascii());
    becomes(b"\x1bP\x1b]52;c;x\x07\x1b\\", b"\x1b\\");
}

#[test]
fn broken_sequences_do_not_pass_and_do_not_join() {
    becomes(b"\x1b[6\x1b[0mn", b"\x1b[0mn");
    becomes(b"\x1b[6\x18n", b"n");
    becomes(b"\x1b[6\rn", b"\r");
    becomes(b"\x1b[3\r1m", b"\r\x1b[31m");
    becomes(b"\x1b\x1b]2;x\x07[6n", b"[6n");
    becomes(b"\x1b[1?m\x1b[$1m", b"");
    becomes(&[b"\x1b[" as &[u8], &[b'1'; 300], b"mx"].concat(), b"x");
    becomes(&[b"\x1b]8;;" as &[u8], &[b'a'; 5000], b"\x07x"].concat(), b"x");
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = proptest::sample::select([FINE, FOUL].concat()).prop_map(<[u8]>::to_vec);
    let cut = (known.clone(), any::<prop::sample::Index>()).prop_map(|(b, i)| b[..i.index(b.len())].to_vec());
    let bytes = proptest::collection::vec(any::<u8>(), 0..8);
    proptest::collection::vec(prop_oneof![known, cut, bytes], 0..12)
}

/// Reads the sequences of `out` as a terminal does and asks of each whether it may be there.
fn assert_harmless(out: &[u8]) {
    let mut at = 0;
    while at < out.len() {
        assert_ne!(out[at], ENQ);
        if out[at] != ESC {
            at += 1;
            continue;
        }
        let rest = &out[at + 1..];
        let end = match rest.first() {
            Some(b'[') => {
                let end = rest[1..].iter().position(|b| *b >= 0x40).unwrap() + 1;
                assert!(csi_passes(&rest[1..end], rest[end]));
                end
            }
            Some(b']') => {
                let end = rest.iter().position(|b| matches!(*b, BEL | ESC)).unwrap();
                assert!(osc_passes(&rest[1..end]));
                end - usize::from(rest[end] == ESC)
            }
            Some(b'P' | b'X' | b'^' | b'_' | b'k' | b'Z') | None => {
                panic!("{}", out.escape_ascii())
            }
            Some(_) => 0,
        };
        at += 2 + end;
    }
}

proptest! {
    #[test]
    fn text_is_never_changed(text in "\\PC{0,64}") {
        prop_assert_eq!(filter(text.as_bytes()), text.as_bytes());
    }

    #[test]
    fn ordinary_sequences_between_text_are_never_changed(
        parts in proptest::collection::vec((proptest::sample::select(FINE), "\\PC{0,8}"), 0..12)
    ) {
        let all = parts.iter().flat_map(|(s, t)| [*s, t.as_bytes()].concat()).collect::<Vec<_>>();
        prop_assert_eq!(filter(&all), all);
    }

    #[test]
    fn where_the_stream_is_cut_makes_no_difference(pieces in pieces()) {
        let whole = filter(&pieces.concat());
        let mut cut = Filter::default();
        let mut out = Vec::new();
        for piece in &pieces {
            out.extend(cut.pass(Bytes::copy_from_slice(piece)));
        }
        let mut bytewise = Filter::default();
        let single: Vec<u8> =
            pieces.concat().iter().flat_map(|b| bytewise.pass(Bytes::copy_from_slice(&[*b]))).collect();
        prop_assert_eq!(&whole, &out);
        prop_assert_eq!(whole, single);
    }

    #[test]
    fn nothing_foul_comes_out(pieces in pieces()) {
        assert_harmless(&filter(&pieces.concat()));
    }

    #[test]
    fn what_passed_once_passes_again(pieces in pieces()) {
        let once = filter(&pieces.concat());
        let mut again = Filter::default();
        let mut twice = again.pass(Bytes::copy_from_slice(&once)).to_vec();
        if let State::First(waiting) = again.state {
            twice.push(waiting);
        }
        prop_assert_eq!(twice, once);
    }
}
