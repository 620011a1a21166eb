use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Refused> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| {
        fields.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        Ok(())
    })?;
    Ok(fields)
}

/// RFC 7541, C.3 and C.4: three requests on one connection, plain and by the Huffman code.
#[test]
fn the_examples_of_the_rfc_are_read() {
    let want: [&[&str]; 3] = [
        &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
        &[
            ":method: GET",
            ":scheme: http",
            ":path: /",
            ":authority: www.example.com",
            "cache-control: no-cache",
        ],
        &[
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ],
    ];
    for blocks in [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        for (block, want) in blocks.iter().zip(want) {
            assert_eq!(decoded(&mut decoder, &hex(block)).unwrap(), want);
        }
        assert_eq!((decoder.size, decoder.table.len()), (164, 3));
    }
}

/// RFC 7541, C.5: responses, whose table of 256 bytes has to forget.
#[test]
fn what_the_table_cannot_hold_is_forgotten() {
    let mut decoder = Decoder { limit: 256, ..Decoder::default() };
    for block in [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54
         6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
    ] {
        decoded(&mut decoder, &hex(block)).unwrap();
    }
    assert_eq!((decoder.size, decoder.table.len()), (222, 4));
    assert_eq!(&*decoder.table[0].1, b"307");
    // Smaller by one's own word, and never larger than the reader's.
    decoded(&mut decoder, &hex("20")).unwrap();
    assert_eq!((decoder.size, decoder.table.len()), (0, 0));
    assert!(decoded(&mut decoder, &hex("3fe21f")).is_err(), "4097 bytes");
    decoder.allow(1 << 30);
    decoded(&mut decoder, &hex("3fe1ff03")).unwrap();
    assert!(decoded(&mut decoder, &hex("3fe2ff03")).is_err(), "65537 bytes");
}

#[test]
fn what_two_readers_could_take_for_two_things_is_refused() {
    for (block, what) in [
        ("80", "the entry 0"),
        ("be", "an entry that is not there"),
        ("8220", "a new size behind a field"),
        ("ffffffffffff0f", "a number beyond all use"),
        ("ff", "a number that is cut short"),
        ("4005616263", "a text that is cut short"),
        ("00", "a field without a name"),
        ("0081ff00", "padding of a whole byte"),
        ("008100", "padding of zeros"),
        ("0084ffffffff00", "the end's code"),
    ] {
        assert!(decoded(&mut Decoder::default(), &hex(block)).is_err(), "{what}");
    }
}

/// One byte refers to thousands: a head of 64 KiB would be one of 256 MiB.
#[test]
fn references_do_not_make_a_head_grow_without_end() {
    let mut block = vec![0x40, 1, b'x', 0x7f, 0x80 | 0x3d, 0x1d];
    block.extend(vec![b'y'; 3900]);
    block.extend(vec![0xbe; 60 << 10]);
    assert_eq!(decoded(&mut Decoder::default(), &block), Err(Refused::TooLong("the list of fields")));
}

proptest! {
    #[test]
    fn a_coded_text_is_itself_again(text: Vec<u8>) {
        prop_assert_eq!(huffman::decode(&huffman::encode(&text)).unwrap(), text);
    }

    #[test]
    fn no_block_makes_a_table_larger_than_it_may_be(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decoded(&mut decoder, &block).is_err() {
                break;
            }
            prop_assert!(decoder.size <= decoder.limit);
        }
    }
}
