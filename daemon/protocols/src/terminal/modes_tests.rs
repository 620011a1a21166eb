use super::*;

fn after(sequences: &[(&[u8], u8)]) -> String {
    let mut modes = Modes::default();
    for (held, last) in sequences {
        modes.note(held, *last);
    }
    String::from_utf8(modes.undo().to_vec()).unwrap()
}

#[test]
fn what_is_on_is_switched_off() {
    let out = after(&[(b"?1049", b'h'), (b"?1000;1006", b'h'), (b"?25", b'l'), (b"?1006", b'l')]);
    assert_eq!(out, "\x1b[?25h\x1b[?1000l\x1b[?1049l");
}

#[test]
fn what_was_switched_back_is_left() {
    let out = after(&[
        (b"?1049", b'h'),
        (b"?25", b'l'),
        (b"?1049", b'l'),
        (b"?25", b'h'),
        (b"1", b'm'),
        (b"", b'm'),
    ]);
    assert_eq!(out, "");
    assert_eq!(after(&[]), "");
}

#[test]
fn what_was_on_already_stays_on() {
    // Switched off, mode 2 would have the terminal read what follows as a VT52.
    assert_eq!(after(&[(b"?2", b'h'), (b"?7;8;25", b'h')]), "");
}

#[test]
fn invented_modes_crowd_out_nothing() {
    // But for those that some terminal has.
    let invented = (3000..=u16::MAX).filter(|n| ![7727, 8452, 9001].contains(n));
    let invented: Vec<_> = invented.map(|n| format!("?{n}").into_bytes()).collect();
    let mut all: Vec<(&[u8], u8)> = invented.iter().map(|held| (held.as_slice(), b'h')).collect();
    all.extend([(&b"?1003"[..], b'h'), (b"?25", b'l'), (b"2", b'h')]);
    assert_eq!(after(&all), "\x1b[?25h\x1b[?1003l\x1b[2l");
}

#[test]
fn what_was_saved_may_come_back() {
    let out = after(&[(b"?1000", b'h'), (b"?1000", b's'), (b"?1000", b'l'), (b"?1000;1049", b'r')]);
    assert_eq!(out, "\x1b[?1000l\x1b[?1049l");
}

#[test]
fn keyboards_are_popped_each_on_its_screen() {
    assert_eq!(after(&[(b">1", b'u'), (b">5", b'u')]), "\x1b[<2u");
    assert_eq!(after(&[(b">1", b'u'), (b"<", b'u')]), "");
    assert_eq!(after(&[(b"=1;1", b'u')]), "\x1b[=0u");
    let both = after(&[(b">1", b'u'), (b"?1049", b'h'), (b">1", b'u'), (b">1", b'u')]);
    assert_eq!(both, "\x1b[<2u\x1b[?1049l\x1b[<1u");
}

#[test]
fn each_thing_has_what_undoes_it() {
    for (at, (thing, _)) in UNDO.iter().enumerate() {
        assert_eq!(*thing as usize, at);
    }
    for (held, last, undo) in [
        (&b"3 "[..], b'q', "\x1b[0 q"),
        (b">4;2", b'm', UNDO[Thing::ModifyKeys as usize].1),
        (b"5;10", b'r', "\x1b7\x1b[r\x1b8"),
        (b"4", b'h', "\x1b[4l"),
        (b"12", b'l', "\x1b[12h"),
        (b"31", b'm', "\x1b[m"),
        (b"1'", b'z', "\x1b[0'z"),
    ] {
        assert_eq!(after(&[(held, last)]), undo, "{}", held.escape_ascii());
    }
    let mut modes = Modes::default();
    modes.note_escape(b"", b'=');
    modes.note_escape(b")", b'0');
    modes.note_shift(true);
    for osc in ["8;;https://example.org", "4;1;#fff", "11;#000", "9;4;1;50"] {
        modes.note_osc(osc.as_bytes());
    }
    let out = modes.undo();
    let out = String::from_utf8_lossy(&out);
    for undo in
        ["\x1b>", "\x1b)B", "\x0f", "\x1b]8;;\x1b\\", "\x1b]104\x1b\\", "\x1b]111\x1b\\", "\x1b]9;4;0;\x1b\\"]
    {
        assert!(out.contains(undo), "{undo:?} in {out:?}");
    }
    assert_eq!(modes.undo(), "");
}
