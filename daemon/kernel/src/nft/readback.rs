//! Whether the kernel holds what it was sent. Both are messages of the same kind, so they are compared as
//! they are: attribute by attribute, lists in the same order and of the same length. What only one side
//! has must be zero (a default), but for the bookkeeping at the top of what the kernel holds (handles, use
//! counts).

use std::collections::BTreeMap;

use netlink_packet_core::{NlaBuffer, NlasIterator};

/// `nfgenmsg`: family, version, resource; then attributes.
pub(super) const NFGENMSG: usize = 4;
/// `nlattr`: length and kind.
const NLATTR: usize = 4;

type Attributes<'b> = BTreeMap<u16, Vec<NlaBuffer<&'b [u8]>>>;

/// Whether the message body `held` is what the message body `sent` asked for.
pub(super) fn agrees(sent: &[u8], held: &[u8]) -> bool {
    let (Some((sent_head, sent)), Some((held_head, held))) =
        (sent.split_at_checked(NFGENMSG), held.split_at_checked(NFGENMSG))
    else {
        return false;
    };
    // The family; version and resource say nothing of the object.
    sent_head.first() == held_head.first() && nest_agrees(sent, held, true)
}

fn nest_agrees(sent: &[u8], held: &[u8], top: bool) -> bool {
    let (Some(sent), Some(mut held)) = (attributes(sent), attributes(held)) else { return false };
    for (kind, sent) in sent {
        let agrees = match held.remove(&kind) {
            Some(held) => {
                sent.len() == held.len() && sent.iter().zip(&held).all(|(sent, held)| same(sent, held))
            }
            None => sent.iter().all(zero),
        };
        if !agrees {
            return false;
        }
    }
    top || held.values().flatten().all(zero)
}

/// libnftnl marks nests, and the kernel does not when it dumps; the kernel ends strings with a NUL, and
/// libnftnl not always.
fn same(sent: &NlaBuffer<&[u8]>, held: &NlaBuffer<&[u8]>) -> bool {
    if sent.nested_flag() {
        return nest_agrees(sent.value(), held.value(), false);
    }
    sent.value() == held.value() || held.value().strip_suffix(&[0]) == Some(sent.value())
}

fn zero(attribute: &NlaBuffer<&[u8]>) -> bool {
    attribute.value().iter().all(|byte| *byte == 0)
}

fn attributes(bytes: &[u8]) -> Option<Attributes<'_>> {
    let mut attributes = Attributes::new();
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        attributes.entry(attribute.kind()).or_default().push(attribute);
    }
    Some(attributes)
}

/// The big-endian number in the attribute `inner` of the nest `outer` of a message body.
pub(super) fn number(body: &[u8], outer: u16, inner: u16) -> Option<u64> {
    let top = attributes(body.get(NFGENMSG..)?)?;
    let nest = attributes(top.get(&outer)?.first()?.value())?;
    let value = nest.get(&inner)?.first()?.value().try_into().ok()?;
    Some(u64::from_be_bytes(value))
}

/// The value of the only attribute of this kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut found = None;
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        let (fits, length) = (attribute.kind() == kind, usize::from(attribute.length()));
        let value = attribute.into_inner().get(NLATTR..length)?;
        if fits && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
    use proptest::prelude::*;

    fn nest(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let attributes: Vec<_> =
            attributes.iter().map(|(kind, value)| DefaultNla::new(*kind, value.to_vec())).collect();
        let mut bytes = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut bytes);
        bytes
    }

    fn body(family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        [&[family, 0, 0, 0], nest(attributes).as_slice()].concat()
    }

    #[test]
    fn what_was_sent_must_be_there_and_the_rest_be_zero() {
        let inner =
            |extra: &[(u16, &[u8])]| nest(&[&[(1, b"cmp\0".as_slice()), (2, b"1234")], extra].concat());
        let sent = body(1, &[(1, b"table\0"), (4 | NLA_F_NESTED, &inner(&[]))]);
        let held = |inner: &[u8]| body(1, &[(1, b"table\0"), (4, inner), (9, b"\0\0\0\x07")]);
        assert!(agrees(&sent, &held(&inner(&[]))));
        assert!(agrees(&sent, &held(&inner(&[(3, &[0; 4])]))));
        assert!(!agrees(&sent, &held(&inner(&[(3, &[0, 0, 0, 1])]))));
        assert!(!agrees(&sent, &held(&inner(&[(2, b"1234")]))));
        assert!(!agrees(&sent, &held(&nest(&[(1, b"cmp\0"), (2, b"1235")]))));
        assert!(!agrees(&sent, &held(&nest(&[(1, b"cmp\0")]))));
        assert!(agrees(&body(1, &[(1, b"table"), (5, &[0])]), &body(1, &[(1, b"table\0")])));
        assert!(!agrees(&body(1, &[(1, b"table"), (5, &[1])]), &body(1, &[(1, b"table\0")])));
        assert!(!agrees(&body(1, &[(1, b"table")]), &body(1, &[(1, b"tables\0")])));
        assert!(!agrees(&sent, &body(2, &[(1, b"table\0"), (4, &inner(&[]))])));
        assert!(!agrees(&sent, b""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_compared_without_panic(
            sent in proptest::collection::vec(any::<u8>(), 0..64),
            held in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = agrees(&sent, &held);
            let _ = number(&held, 4, 2);
        }
    }
}
