use super::*;
use proptest::prelude::*;

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(data)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0][..], &vector16(name)].concat()))
}

/// The message, without records.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector8(&[9; 32]),
        &vector16(&[0x1a, 0x1a, 0x13, 0x01]),
        &vector8(&[0]),
        &vector16(&extensions.concat()),
    ]
    .concat();
    [&[1][..], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(extensions), MAX_RECORD)
}

fn read(bytes: &[u8]) -> Progress {
    Reader::new().feed(bytes)
}

fn name(progress: Progress) -> Option<String> {
    match progress {
        Progress::Hello(hello, _) => hello.name.map(Into::into),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_name_is_read_whatever_is_around_it() {
    let grease = [extension(0x0a0a, &[]), extension(0xfafa, &[0])];
    let alpn = extension(16, &vector16(&[vector8(b"h2"), vector8(b"http/1.1")].concat()));
    let ech = extension(0xfe0d, &[0, 1, 2, 3]);
    let bytes = hello(&[grease[0].clone(), ech, server_name(b"API.Example.org"), alpn, grease[1].clone()]);
    let Progress::Hello(hello, end) = read(&bytes) else { panic!() };
    assert_eq!(hello.name.unwrap().as_str(), "api.example.org");
    assert_eq!(hello.protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(hello.ech && !hello.early_data);
    assert_eq!(end, bytes.len());
}

#[test]
fn a_hello_without_a_name_is_one() {
    assert_eq!(name(read(&hello(&[]))), None);
    // Before TLS 1.3, without any extension.
    let mut body = message(&[]);
    body.truncate(body.len() - 2);
    body[3] -= 2;
    assert_eq!(name(read(&records(&body, MAX_RECORD))), None);
}

#[test]
fn names_that_are_none_are_refused() {
    let list = |entries: &[u8]| extension(0, &vector16(entries));
    let one = [&[0][..], &vector16(b"a.example")].concat();
    for (extensions, why) in [
        (vec![server_name(b"a.example"), server_name(b"a.example")], Why::Duplicate(0)),
        (vec![extension(99, &[]), extension(98, &[]), extension(99, &[])], Why::Duplicate(99)),
        (vec![list(&[one.clone(), one.clone()].concat())], Why::Names),
        (vec![list(&[])], Why::Names),
        (vec![list(&[&[1][..], &vector16(b"a.example")].concat())], Why::Names),
        (vec![server_name(b"")], Why::Name(HostError::Label)),
        (vec![server_name(b"a.example.")], Why::TrailingDot),
        (vec![server_name(b".")], Why::TrailingDot),
        (vec![server_name(b"a.example\0.evil.example")], Why::Name(HostError::Character('\0'))),
        (vec![server_name(b"192.0.2.1")], Why::Name(HostError::Address)),
        (vec![server_name(b"0x7f.1")], Why::Name(HostError::Address)),
        (vec![server_name(b"[::1]")], Why::Name(HostError::Character('['))),
        (vec![server_name(b"localhost")], Why::Name(HostError::Own)),
        (vec![server_name("bücher.example".as_bytes())], Why::Name(HostError::Character('ü'))),
        (vec![server_name(&[b'a'; 300])], Why::Name(HostError::Label)),
        (vec![extension(0, &[0, 0, 0])], Why::Form("server_name")),
        (vec![extension(0, &[])], Why::Form("server_name")),
        (vec![extension(16, &vector16(&[0]))], Why::Form("application_layer_protocol_negotiation")),
    ] {
        assert_eq!(read(&hello(&extensions)), Progress::Malformed(why), "{extensions:?}");
    }
}

#[test]
fn records_and_messages_out_of_form_are_refused() {
    let good = hello(&[server_name(b"a.example")]);
    let with = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        read(&bytes)
    };
    assert_eq!(with(1, 4), Progress::Malformed(Why::Record));
    assert_eq!(with(5, 2), Progress::Malformed(Why::Message));
    assert_eq!(with(9, 4), Progress::Malformed(Why::Form("legacy_version")));
    assert_eq!(with(43, 33), Progress::Malformed(Why::Form("legacy_session_id")));
    // 16 MB, and as much as the length can say.
    assert_eq!(with(6, 0xff), Progress::Malformed(Why::TooLong));
    assert_eq!(read(&[22, 3, 1, 0, 0]), Progress::Malformed(Why::Record));
    assert_eq!(read(&[22, 3, 1, 0x40, 1]), Progress::Malformed(Why::Record));
    // Another message in the same record; a record of another type in between.
    let two = [message(&[]), vec![1, 0, 0, 0]].concat();
    assert_eq!(read(&records(&two, MAX_RECORD)), Progress::Malformed(Why::Message));
    let mut between = records(&message(&[]), 20);
    between[25] = 21;
    assert_eq!(read(&between), Progress::Malformed(Why::Record));
    // What follows in a record of its own is not looked at.
    let Progress::Hello(_, end) = read(&[&good[..], &[23, 3, 3, 0, 1, 0]].concat()) else { panic!() };
    assert_eq!(end, good.len());
}

#[test]
fn tiny_records_are_read_and_bounded() {
    let small = message(&[server_name(b"a.example")]);
    assert_eq!(name(read(&records(&small, 1))), Some("a.example".into()));
    let padded = message(&[extension(21, &[0; 60_000]), server_name(b"a.example")]);
    assert_eq!(name(read(&records(&padded, 2000))), Some("a.example".into()));
    assert_eq!(read(&records(&padded, 1)), Progress::Malformed(Why::TooLong));
    let mut reader = Reader::new();
    assert_eq!(reader.feed(&[23]), Progress::NeedMore);
    assert_eq!(reader.feed(&[9]), Progress::NotTls);
    assert_eq!(reader.feed(&[9]), Progress::Malformed(Why::Ended));
}

#[test]
fn what_some_server_takes_for_tls_is_never_something_else() {
    for bytes in [&[22_u8, 9][..], &[22, 3, 9]] {
        assert_eq!(read(bytes), Progress::NeedMore, "{bytes:?}");
    }
    for bytes in [&[21_u8, 3][..], &[20, 3], &[23, 3], &[24, 3], &[22, 15, 3, 0, 1]] {
        assert_eq!(read(bytes), Progress::Malformed(Why::Record), "{bytes:?}");
    }
    for bytes in [&[0x80_u8, 46, 1, 3, 1][..], &[0xff, 0xff, 1, 3], &[0x80, 9, 1, 0, 2]] {
        assert_eq!(read(bytes), Progress::Malformed(Why::Ssl2), "{bytes:?}");
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x\r\n",
        &[0, 0, 0, 8],
        &[0x80, 9, 4],
        &[0x80, 9, 1, 9],
        &[21, 0],
    ] {
        assert_eq!(read(bytes), Progress::NotTls, "{bytes:?}");
    }
    for bytes in [&[][..], &[0x80], &[0x80, 9], &[0x80, 9, 1], &[21]] {
        assert_eq!(read(bytes), Progress::NeedMore, "{bytes:?}");
    }
}

#[test]
fn after_a_retry_the_name_is_the_same_or_refused() {
    let first = hello(&[server_name(b"a.example"), extension(42, &[])]);
    let Progress::Hello(first, _) = read(&first) else { panic!() };
    assert!(first.early_data);
    let between = [&[20, 3, 3, 0, 1, 1][..], &[23, 3, 3], &vector16(&[5; 16_600])].concat();
    for (name, same) in [(&b"a.example"[..], true), (b"b.example", false)] {
        let mut reader = Reader::after_retry(first.clone());
        assert_eq!(reader.feed(&between), Progress::NeedMore);
        let progress = reader.feed(&hello(&[server_name(name)]));
        assert_eq!(matches!(progress, Progress::Hello(..)), same, "{progress:?}");
        assert_eq!(progress == Progress::Malformed(Why::Changed), !same);
    }
    assert_eq!(Reader::after_retry(first.clone()).feed(&[21]), Progress::Malformed(Why::Record));
    assert_eq!(Reader::after_retry(first).feed(&hello(&[])), Progress::Malformed(Why::Changed));
}

#[test]
fn a_retry_is_known_by_its_random() {
    let retry: Vec<u8> = [
        &[2, 0, 0, 40, 3, 3][..],
        &[0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91],
        &[0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c],
        &[0; 6],
    ]
    .concat();
    for size in [1, 7, 100] {
        let bytes = [&[21, 3, 3, 0, 2, 1, 112][..], &records(&retry, size)].concat();
        let mut reply = Reply::new();
        let turns: Vec<Turn> = bytes.iter().map(|byte| reply.feed(&[*byte])).collect();
        assert_eq!(turns.iter().find(|turn| **turn != Turn::NeedMore), Some(&Turn::Retry));
        assert_eq!(Reply::new().feed(&bytes), Turn::Retry);
    }
    let mut hello = retry;
    hello[6] = 0;
    assert_eq!(Reply::new().feed(&records(&hello, 100)), Turn::Final);
    assert_eq!(Reply::new().feed(b"HTTP/1.1 400 Bad Request"), Turn::NotTls);
    assert_eq!(Reply::new().feed(&[22, 3]), Turn::NeedMore);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        label in "[a-z]{1,20}",
        record in 1_usize..200,
        cuts in prop::collection::vec(1_usize..90, 1..20),
    ) {
        let bytes = records(&message(&[server_name(format!("{label}.example").as_bytes())]), record);
        let (mut reader, mut rest, mut cuts) = (Reader::new(), &bytes[..], cuts.iter().cycle());
        let mut progress = Progress::NeedMore;
        while progress == Progress::NeedMore && !rest.is_empty() {
            let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            progress = reader.feed(piece);
            rest = behind;
        }
        prop_assert_eq!(progress, read(&bytes));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), place in 0_usize..120, byte: u8) {
        crate::exercise::hello(&bytes);
        let mut good = hello(&[server_name(b"a.example"), extension(16, &vector16(&vector8(b"h2")))]);
        if place < good.len() {
            good[place] = byte;
        }
        crate::exercise::hello(&good);
    }
}
