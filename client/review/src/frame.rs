//! Records in agentd's own files: each with its length and SHA-256, so that a torn one is as one never written.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// Length (8 bytes, little-endian) and SHA-256 of what follows.
const HEADER: usize = 8 + 32;

/// The longest record, in bytes.
pub const MAX_RECORD: usize = 512 << 20;

/// `value` as a record; `None` if it is longer than any may be.
pub fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    let payload = postcard::to_stdvec(value).ok().filter(|payload| payload.len() <= MAX_RECORD)?;
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.extend((payload.len() as u64).to_le_bytes());
    record.extend(Sha256::digest(&payload));
    record.extend(payload);
    Some(record)
}

/// The first record of `bytes`, and what follows it; `None` if it is torn, damaged, of another type, or has more in it
/// than its value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let (sum, rest) = rest.split_at_checked(32)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (payload, rest) = rest.split_at_checked(length)?;
    if Sha256::digest(payload).as_slice() != sum {
        return None;
    }
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Some((value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_torn_record_is_none(value in proptest::collection::vec(any::<u16>(), 0..40), cut in any::<prop::sample::Index>()) {
            let record = encode(&value).unwrap();
            let cut = cut.index(record.len());
            prop_assert_eq!(decode::<Vec<u16>>(&record[..cut]), None);
            let twice = [record.clone(), record[..cut].to_vec()].concat();
            prop_assert_eq!(decode::<Vec<u16>>(&twice), Some((value, &record[..cut])));
        }

        #[test]
        fn a_changed_byte_is_noticed(value in proptest::collection::vec(any::<u16>(), 0..40), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut record = encode(&value).unwrap();
            let at = at.index(record.len());
            record[at] ^= 1_u8 << bit;
            prop_assert_eq!(decode::<Vec<u16>>(&record), None);
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Vec<String>>(&bytes);
        }
    }
}
