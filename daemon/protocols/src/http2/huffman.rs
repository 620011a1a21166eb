//! The Huffman code of HPACK (RFC 7541 §5.2). It is canonical: the lengths of its codes are all of it.

use std::sync::LazyLock;

use crate::http::Refused;

/// The longest code.
const LONGEST: usize = 30;
/// What ends a text, and is never in one.
const END: u16 = 256;
/// The length of each byte's code in bits, and of [`END`]'s (RFC 7541, appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6,
    6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6,
    6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22,
    23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22,
    25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The codes of one length: they follow each other.
#[derive(Clone, Copy, Default)]
struct Row {
    /// The first of them.
    first: u32,
    /// How many there are.
    count: u32,
    /// Where what they stand for begins in [`Code::symbols`].
    begin: usize,
}

struct Code {
    rows: [Row; LONGEST + 1],
    /// By length, and then in order.
    symbols: Vec<u16>,
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut code = Code { rows: [Row::default(); LONGEST + 1], symbols: Vec::with_capacity(LENGTHS.len()) };
    let mut next = 0;
    for length in 1..=LONGEST {
        let begin = code.symbols.len();
        let of_length = (0..=END).filter(|symbol| usize::from(LENGTHS[usize::from(*symbol)]) == length);
        let mut count = 0;
        for symbol in of_length {
            code.symbols.push(symbol);
            count += 1;
        }
        code.rows[length] = Row { first: next, count, begin };
        next = (next + count) << 1;
    }
    code
});

/// The text that `input` stands for: at most eight bytes for each five of it.
///
/// # Errors
/// The end's code, a code that is cut short, and padding that is not as the RFC has it: readers disagree on these.
pub(super) fn decode(input: &[u8]) -> Result<Vec<u8>, Refused> {
    const FORM: Refused = Refused::Form("a compressed text");
    let mut text = Vec::with_capacity(input.len() + input.len() / 2);
    let (mut bits, mut length) = (0_u32, 0);
    for place in 0..input.len() * 8 {
        bits = bits << 1 | u32::from(input[place / 8] >> (7 - place % 8) & 1);
        length += 1;
        let row = CODE.rows.get(length).ok_or(FORM)?;
        let Some(number) = bits.checked_sub(row.first).filter(|number| *number < row.count) else { continue };
        match CODE.symbols.get(row.begin + number as usize).map(|symbol| u8::try_from(*symbol)) {
            Some(Ok(byte)) => text.push(byte),
            // The end's code, which is above all bytes.
            _ => return Err(FORM),
        }
        (bits, length) = (0, 0);
    }
    // What is left is the beginning of the end's code, and less than a byte of it.
    if length < 8 && bits.count_ones() as usize == length { Ok(text) } else { Err(FORM) }
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let code = |byte: u8| {
        let length = usize::from(LENGTHS[usize::from(byte)]);
        let row = CODE.rows[length];
        let number = CODE.symbols[row.begin..].iter().position(|symbol| *symbol == u16::from(byte)).unwrap();
        (0..length).rev().map(move |bit| (row.first + u32::try_from(number).unwrap()) >> bit & 1 == 1)
    };
    let mut bits: Vec<bool> = text.iter().flat_map(|byte| code(*byte)).collect();
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
}
