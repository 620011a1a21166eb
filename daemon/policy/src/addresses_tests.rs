use super::*;
use proptest::prelude::*;

fn net(text: &str) -> Net {
    Net::parse(text).unwrap()
}

fn judged(address: &str, also: &[&str]) -> Judgement {
    judge(address.parse().unwrap(), &also.iter().map(|text| net(text)).collect::<Vec<_>>())
}

/// A range, its kind, its first and last address, and what its neighbours are; `None`: global.
type Row = (&'static str, Kind, &'static str, &'static str, Option<Kind>, Option<Kind>);

#[test]
fn every_range_begins_and_ends_where_it_does() {
    use Kind::*;
    let table: &[Row] = &[
        ("0/8", ThisNetwork, "0.0.0.1", "0.255.255.255", Some(Unspecified), None),
        ("10/8", Private, "10.0.0.0", "10.255.255.255", None, None),
        ("100.64/10", Shared, "100.64.0.0", "100.127.255.255", None, None),
        ("127/8", Loopback, "127.0.0.0", "127.255.255.255", None, None),
        ("169.254/16", LinkLocal, "169.254.0.0", "169.254.255.255", None, None),
        ("metadata", Metadata, "169.254.169.254", "169.254.169.254", Some(LinkLocal), Some(LinkLocal)),
        ("tasks", Metadata, "169.254.170.2", "169.254.170.2", Some(LinkLocal), Some(LinkLocal)),
        ("pods", Metadata, "169.254.170.23", "169.254.170.23", Some(LinkLocal), Some(LinkLocal)),
        ("alibaba", Metadata, "100.100.100.200", "100.100.100.200", Some(Shared), Some(Shared)),
        ("azure", Metadata, "168.63.129.16", "168.63.129.16", None, None),
        ("oracle", Metadata, "192.0.0.192", "192.0.0.192", Some(Protocol), Some(Protocol)),
        ("172.16/12", Private, "172.16.0.0", "172.31.255.255", None, None),
        ("192.0.0/24", Protocol, "192.0.0.0", "192.0.0.255", None, None),
        ("192.0.2/24", Documentation, "192.0.2.0", "192.0.2.255", None, None),
        ("192.31.196/24", As112, "192.31.196.0", "192.31.196.255", None, None),
        ("192.52.193/24", Amt, "192.52.193.0", "192.52.193.255", None, None),
        ("192.88.99/24", RelayAnycast, "192.88.99.0", "192.88.99.255", None, None),
        ("192.168/16", Private, "192.168.0.0", "192.168.255.255", None, None),
        ("192.175.48/24", As112, "192.175.48.0", "192.175.48.255", None, None),
        ("198.18/15", Benchmarking, "198.18.0.0", "198.19.255.255", None, None),
        ("198.51.100/24", Documentation, "198.51.100.0", "198.51.100.255", None, None),
        ("203.0.113/24", Documentation, "203.0.113.0", "203.0.113.255", None, None),
        ("224/4", Multicast, "224.0.0.0", "239.255.255.255", None, Some(Reserved)),
        ("240/4", Reserved, "240.0.0.0", "255.255.255.254", Some(Multicast), Some(Broadcast)),
        ("::/128", Unspecified, "::", "::", None, Some(Loopback)),
        ("::1/128", Loopback, "::1", "::1", Some(Unspecified), Some(Compatible)),
        ("::/96", Compatible, "::2", "::ffff:ffff", Some(Loopback), Some(Reserved)),
        ("mapped", Mapped, "::ffff:0:0", "::ffff:ffff:ffff", Some(Reserved), Some(Reserved)),
        ("siit", Translated, "::ffff:0:0:0", "::ffff:0:ffff:ffff", Some(Reserved), Some(Reserved)),
        ("nat64", Nat64, "64:ff9b::", "64:ff9b::ffff:ffff", Some(Reserved), Some(Reserved)),
        (
            "local nat64",
            Nat64Local,
            "64:ff9b:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            Some(Reserved),
            Some(Reserved),
        ),
        ("discard", Discard, "100::", "100::1:ffff:ffff:ffff:ffff", Some(Reserved), Some(Reserved)),
        ("teredo", Teredo, "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", None, Some(Protocol)),
        (
            "benchmark",
            Benchmarking,
            "2001:2::",
            "2001:2:0:ffff:ffff:ffff:ffff:ffff",
            Some(Protocol),
            Some(Protocol),
        ),
        ("amt", Amt, "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff", Some(Protocol), Some(Protocol)),
        (
            "as112",
            As112,
            "2001:4:112::",
            "2001:4:112:ffff:ffff:ffff:ffff:ffff",
            Some(Protocol),
            Some(Protocol),
        ),
        (
            "orchid",
            Orchid,
            "2001:10::",
            "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff",
            Some(Protocol),
            Some(Protocol),
        ),
        ("2001::/23", Protocol, "2001:40::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Orchid), None),
        ("doc", Documentation, "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
        ("6to4", SixToFour, "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
        ("as112", As112, "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", None, None),
        ("doc", Documentation, "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
        ("srv6", Srv6, "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Reserved), Some(Reserved)),
        ("aws", Metadata, "fd00:ec2::254", "fd00:ec2::254", Some(UniqueLocal), Some(UniqueLocal)),
        ("google", Metadata, "fd20:ce::254", "fd20:ce::254", Some(UniqueLocal), Some(UniqueLocal)),
        ("scaleway", Metadata, "fd00:42::42", "fd00:42::42", Some(UniqueLocal), Some(UniqueLocal)),
        ("link", Metadata, "fe80::a9fe:a9fe", "fe80::a9fe:a9fe", Some(LinkLocal), Some(LinkLocal)),
        (
            "ula",
            UniqueLocal,
            "fc00::",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Some(Reserved),
            Some(Reserved),
        ),
        (
            "link",
            LinkLocal,
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Some(Reserved),
            Some(SiteLocal),
        ),
        (
            "site",
            SiteLocal,
            "fec0::",
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Some(LinkLocal),
            Some(Multicast),
        ),
        ("ff00::/8", Multicast, "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(SiteLocal), None),
        ("low", Reserved, "200::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Reserved), None),
        ("middle", Reserved, "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some(Srv6)),
        (
            "high",
            Reserved,
            "8000::",
            "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Some(Reserved),
            Some(UniqueLocal),
        ),
    ];
    let kind = |kind: Option<Kind>| kind.map_or(Judgement::Global, Judgement::Special);
    for (label, own, first, last, before, after) in table {
        let (first, last): (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
        assert_eq!(judge(first, &[]), kind(Some(*own)), "{label}: first");
        assert_eq!(judge(last, &[]), kind(Some(*own)), "{label}: last");
        if let Some(neighbour) = step(first, -1) {
            assert_eq!(judge(neighbour, &[]), kind(*before), "{label}: before, {neighbour}");
        }
        if let Some(neighbour) = step(last, 1) {
            assert_eq!(judge(neighbour, &[]), kind(*after), "{label}: after, {neighbour}");
        }
    }
}

fn step(address: IpAddr, by: i128) -> Option<IpAddr> {
    let moved = |bits: u128| if by < 0 { bits.checked_sub(1) } else { bits.checked_add(1) };
    match address {
        IpAddr::V4(a) => {
            moved(u32::from(a).into()).and_then(|b| u32::try_from(b).ok()).map(|b| IpAddr::V4(b.into()))
        }
        IpAddr::V6(a) => moved(a.into()).map(|b| IpAddr::V6(b.into())),
    }
}

#[test]
fn no_line_of_the_tables_hides_a_later_one() {
    for table in [&tables::V4[..], &tables::V6[..]] {
        for (place, (net, _)) in table.iter().enumerate() {
            assert_eq!(&Net::parse(&net.to_string()).unwrap(), net);
            let hiding = table[..place].iter().find(|(earlier, _)| net.is_within(earlier));
            assert_eq!(hiding, None, "{net}");
        }
    }
}

#[test]
fn the_internet_is_global() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
    ] {
        assert_eq!(judged(address, &[]), Judgement::Global, "{address}");
    }
}

#[test]
fn a_range_is_named_by_a_network_that_lies_in_it() {
    use Judgement::{Global, Special};
    assert_eq!(judged("10.1.2.3", &["10.0.0.0/8"]), Global);
    assert_eq!(judged("10.1.2.3", &["10.1.2.3"]), Global);
    assert_eq!(judged("10.1.2.3", &["10.1.2.4/32", "192.168.0.0/16"]), Special(Kind::Private));
    for wide in ["0.0.0.0/0", "8.0.0.0/6"] {
        assert_eq!(judged("10.1.2.3", &[wide]), Special(Kind::Private), "{wide}");
    }
    assert_eq!(judged("127.0.0.1", &["0.0.0.0/0"]), Special(Kind::Loopback));
    assert_eq!(judged("203.0.113.9", &["203.0.113.0/24"]), Global);
    assert_eq!(judged("2001:db8::1", &["2001:db8::/32"]), Global);
    assert_eq!(judged("2001:db8::1", &["::/0"]), Special(Kind::Documentation));
    // A cloud's credentials are named by themselves or not at all.
    assert_eq!(judged("169.254.169.254", &["169.254.0.0/16", "169.254.169.254/31"]), Special(Kind::Metadata));
    assert_eq!(judged("169.254.169.254", &["169.254.169.254"]), Global);
    assert_eq!(judged("fd00:ec2::254", &["fc00::/7", "fd00:ec2::/32"]), Special(Kind::Metadata));
    // What connects to the own machine under another name is never permitted.
    for (address, kind) in
        [("0.0.0.0", Kind::Unspecified), ("255.255.255.255", Kind::Broadcast), ("::", Kind::Unspecified)]
    {
        assert_eq!(judged(address, &[address]), Special(kind));
    }
}

#[test]
fn what_carries_an_ipv4_address_is_judged_by_it_too() {
    use Judgement::{Global, Special};
    assert_eq!(judged("::ffff:8.8.8.8", &[]), Special(Kind::Mapped));
    assert_eq!(judged("::ffff:8.8.8.8", &["::ffff:0:0/96"]), Global);
    assert_eq!(judged("::ffff:10.0.0.1", &["::ffff:0:0/96"]), Special(Kind::Private));
    assert_eq!(judged("::ffff:10.0.0.1", &["10.0.0.0/8"]), Special(Kind::Mapped));
    assert_eq!(judged("64:ff9b::808:808", &["64:ff9b::/96"]), Global);
    assert_eq!(judged("64:ff9b::a9fe:a9fe", &["64:ff9b::/96"]), Special(Kind::Metadata));
    assert_eq!(judged("64:ff9b::7f00:1", &["64:ff9b::/96", "127.0.0.0/8"]), Global);
    assert_eq!(judged("2002:808:808::1", &["2002::/16"]), Global);
    assert_eq!(judged("2002:7f00:1::1", &["2002::/16"]), Special(Kind::Loopback));
    // Teredo: server 8.8.8.8, client 192.168.0.1 inverted.
    assert_eq!(judged("2001:0:808:808::3f57:fffe", &["2001::/32"]), Special(Kind::Private));
    assert_eq!(judged("2001:0:808:808::f7f7:f7f7", &["2001::/32"]), Global);
    assert_eq!(judged("2001:0:a00:1::f7f7:f7f7", &["2001::/32"]), Special(Kind::Private));
}

#[test]
fn a_local_nat64_prefix_says_by_its_length_where_the_address_is() {
    use Judgement::{Global, Special};
    // RFC 6052 §2.2: 10.0.0.1 and 8.8.8.8 behind each length.
    for (length, private, global) in [
        (48, "64:ff9b:1:a00:0:100::", "64:ff9b:1:808:8:800::"),
        (56, "64:ff9b:1:a:0:1::", "64:ff9b:1:8:8:808::"),
        (64, "64:ff9b:1:0:a:0:100:0", "64:ff9b:1:0:8:808:800:0"),
        (96, "64:ff9b:1::a00:1", "64:ff9b:1::808:808"),
    ] {
        let also = format!("64:ff9b:1::/{length}");
        assert_eq!(judged(private, &[&also]), Special(Kind::Private), "{length}");
        assert_eq!(judged(global, &[&also]), Global, "{length}");
    }
    assert_eq!(judged("64:ff9b:1::808:808", &["64:ff9b:1::/100"]), Special(Kind::Nat64Local));
}

#[test]
fn networks_are_read_strictly() {
    assert_eq!(net("192.0.2.1").to_string(), "192.0.2.1/32");
    assert_eq!(net("::/0").to_string(), "::/0");
    for bad in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.0.0.0/ 8",
        "10/8",
        "010.0.0.0/8",
        "::/129",
        "fe80::1%lo/64",
    ] {
        assert!(matches!(Net::parse(bad), Err(NetError::Form(_))), "{bad}");
    }
    assert!(matches!(Net::parse("10.0.0.1/8"), Err(NetError::HostBits(_))));
    assert!(!net("127.0.0.0/8").contains("::ffff:127.0.0.1".parse().unwrap()));
}

proptest! {
    #[test]
    fn no_form_permits_more_than_the_address_inside(
        address in prop_oneof![
            any::<u32>(),
            prop::sample::select(vec![0_u32, 0x7f00_0001, 0x0a00_0001, 0xa9fe_a9fe, 0xc0a8_0101, 0x6440_0001, 0xffff_ffff]),
        ],
        named in prop::collection::vec(prop::sample::select(vec![
            "::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "2002::/16", "10.0.0.0/8", "127.0.0.0/8",
            "169.254.0.0/16", "0.0.0.0/0", "::/0", "192.168.0.0/16", "64:ff9b:1::/96", "100.64.0.0/10",
        ]), 0..13),
    ) {
        let also: Vec<Net> = named.into_iter().map(net).collect();
        let inner = Ipv4Addr::from(address);
        let low = u128::from(address);
        let forms = [
            low | 0xffff_0000_0000,
            low,
            low | 0xffff_0000_0000_0000,
            low | (0x64_ff9b << 96),
            low | (0x64_ff9b << 96) | (1 << 80),
            (0x2002 << 112) | (low << 80),
        ];
        for form in forms {
            let outer = judge(IpAddr::V6(form.into()), &also);
            if outer == Judgement::Global {
                prop_assert_eq!(judge(IpAddr::V4(inner), &also), Judgement::Global, "{}", Ipv6Addr::from(form));
            }
            prop_assert_ne!(judge(IpAddr::V6(form.into()), &[]), Judgement::Global);
        }
    }

    #[test]
    fn a_network_holds_what_shares_its_prefix(address in any::<u128>(), length in 0_u8..=128, other in any::<u128>()) {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let net = net(&format!("{}/{length}", Ipv6Addr::from(address & mask)));
        prop_assert!(net.contains(IpAddr::V6(address.into())));
        prop_assert_eq!(net.contains(IpAddr::V6(other.into())), address & mask == other & mask);
    }
}
