use super::*;
use proptest::prelude::*;

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text).unwrap()
}

#[test]
fn one_spelling() {
    for (text, spelling) in [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("a", "a"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("r3---sn-x.example", "r3---sn-x.example"),
        ("10.0.0.1.example", "10.0.0.1.example"),
        ("1e100.net", "1e100.net"),
        ("0x7f.0x1.example", "0x7f.0x1.example"),
        ("a.0xg", "a.0xg"),
        ("notlocalhost", "notlocalhost"),
        ("localhost.example", "localhost.example"),
    ] {
        assert_eq!(name(text).as_str(), spelling, "{text}");
    }
}

#[test]
fn addresses_in_every_spelling_are_no_names() {
    for text in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "0X7F.1",
        "0x7f.0.0.0x1",
        "0x",
        "1.2.3.4.5",
        "1.2.3.256",
        "example.1",
        "example.0x1f",
        "00000000177.1",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "fe80::1%eth0",
        "127.0.0.1%25lo",
        "example.org:80",
    ] {
        assert_eq!(HostName::parse(text), Err(HostError::Address), "{text}");
    }
}

#[test]
fn what_means_the_own_machine_is_no_name() {
    for text in [
        "localhost",
        "LocalHost.",
        "a.b.localhost",
        "localhost.localdomain",
        "localhost6.localdomain6",
        "ip6-localhost",
        "loopback",
    ] {
        assert_eq!(HostName::parse(text), Err(HostError::Own), "{text}");
    }
}

#[test]
fn everything_else_is_refused_for_its_reason() {
    let long = format!("{}.org", "a.".repeat(126));
    assert_eq!(HostName::parse(&long), Err(HostError::TooLong));
    assert!(HostName::parse(&"a.".repeat(127)[..253]).is_ok());
    for (text, why) in [
        ("", HostError::Empty),
        (".", HostError::Empty),
        ("..", HostError::Label),
        (".a", HostError::Label),
        ("a..b", HostError::Label),
        ("a.b..", HostError::Label),
        (&"a".repeat(64), HostError::Label),
        ("a b", HostError::Character(' ')),
        ("a\0.org", HostError::Character('\0')),
        ("a\n.org", HostError::Character('\n')),
        ("user@a.org", HostError::Character('@')),
        ("a.org/", HostError::Character('/')),
        ("a,b", HostError::Character(',')),
        ("*.a.org", HostError::Character('*')),
        ("bücher.example", HostError::Character('ü')),
        // Ideographic and full-width dots, a full-width letter, a Kelvin sign: nothing is folded to ASCII.
        ("a\u{3002}org", HostError::Character('\u{3002}')),
        ("a\u{ff0e}org", HostError::Character('\u{ff0e}')),
        ("\u{ff41}.org", HostError::Character('\u{ff41}')),
        ("\u{212a}.org", HostError::Character('\u{212a}')),
        ("-a.org", HostError::Hyphen),
        ("a.-b", HostError::Hyphen),
    ] {
        assert_eq!(HostName::parse(text), Err(why), "{text:?}");
    }
}

#[test]
fn a_dot_inside_a_label_separates_nothing() {
    let labels = |labels: &[&'static [u8]]| HostName::from_labels(labels.iter().copied());
    assert_eq!(labels(&[b"WWW", b"example", b"org"]).unwrap().as_str(), "www.example.org");
    assert_eq!(labels(&[b"www.example", b"org"]), Err(HostError::Character('.')));
    assert_eq!(labels(&[b"a\xff"]), Err(HostError::Character(char::REPLACEMENT_CHARACTER)));
    assert_eq!(labels(&[b"127", b"0", b"0", b"1"]), Err(HostError::Address));
    assert_eq!(labels(&[b"", b"a"]), Err(HostError::Label));
    assert_eq!(labels(&[]), Err(HostError::Empty));
    assert_eq!(labels(&[&b"a"[..]; 127]).unwrap().as_str().len(), 253);
    assert_eq!(labels(&[&b"a"[..]; 128]), Err(HostError::TooLong));
}

#[test]
fn a_wildcard_is_what_is_below() {
    let below = pattern("*.Example.org");
    assert!(
        below.is_wildcard()
            && below.matches(&name("a.example.org"))
            && below.matches(&name("a.b.example.org"))
    );
    for other in ["example.org", "aexample.org", "example.org.evil", "org", "example-org"] {
        assert!(!below.matches(&name(other)), "{other}");
    }
    let exact = pattern("api.example.org.");
    assert!(!exact.is_wildcard() && exact.matches(&name("API.example.org")));
    assert!(!exact.matches(&name("v1.api.example.org")));
    assert_eq!(below.to_string(), "*.example.org");
    for bad in
        ["*", "*.", "**.a", "a.*", "*a.org", "a*.org", "*.*.org", "*.1.2.3.4", "*.localhost", "a.*.org"]
    {
        assert!(HostPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_deny_wins() {
    let rule = |host, ports: &[u16], protocol| HostRule {
        host: pattern(host),
        ports: ports.to_vec(),
        protocol,
        opaque: false,
    };
    let rules = HostRules {
        deny: vec![pattern("*.ads.example"), pattern("evil.example")],
        allow: vec![
            rule("*.example", &[443], Protocol::Tcp),
            rule("git.example", &[22], Protocol::Tcp),
            rule("time.example", &[], Protocol::Udp),
        ],
    };
    assert!(matches!(rules.resolve(&name("x.ads.example")), HostVerdict::Denied(_)));
    assert!(matches!(rules.connect(&name("evil.example"), 443, Protocol::Tcp), HostVerdict::Denied(_)));
    assert!(matches!(rules.resolve(&name("ads.example")), HostVerdict::Allowed(_)));
    assert_eq!(rules.resolve(&name("other.test")), HostVerdict::Unnamed);
    assert_eq!(rules.connect(&name("git.example"), 22, Protocol::Tcp), HostVerdict::Allowed(&rules.allow[1]));
    assert_eq!(rules.connect(&name("a.example"), 22, Protocol::Tcp), HostVerdict::Unnamed);
    assert_eq!(rules.connect(&name("a.example"), 443, Protocol::Udp), HostVerdict::Unnamed);
    assert!(matches!(rules.connect(&name("time.example"), 123, Protocol::Udp), HostVerdict::Allowed(_)));
    assert_eq!(rules.allowing(&name("git.example")).count(), 2);
    assert_eq!(rules.allowing(&name("evil.example")).count(), 0);
}

proptest! {
    #[test]
    fn no_text_panics_and_a_spelling_stays(text in "\\PC{0,80}") {
        if let Ok(name) = HostName::parse(&text) {
            prop_assert_eq!(&HostName::parse(name.as_str()).unwrap(), &name);
            let again = HostName::from_labels(name.labels().map(str::as_bytes)).unwrap();
            prop_assert_eq!(again, name);
        }
    }

    #[test]
    fn case_and_a_final_dot_say_nothing(text in "([a-z][a-z0-9_-]{0,9}\\.){1,4}[a-z]{2,6}") {
        let lower = HostName::parse(&text);
        prop_assert_eq!(&HostName::parse(&text.to_uppercase()), &lower);
        prop_assert_eq!(&HostName::parse(&format!("{text}.")), &lower);
    }

    #[test]
    fn whatever_the_system_reads_as_an_address_is_no_name(address in any::<u32>(), form in 0..6) {
        let [a, b, c, d] = address.to_be_bytes();
        let text = match form {
            0 => format!("{a}.{b}.{c}.{d}"),
            1 => format!("{address}"),
            2 => format!("{address:#x}"),
            3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            4 => format!("{a}.{}", address & 0xff_ffff),
            _ => format!("{a:#x}.{b}.{}", address & 0xffff),
        };
        prop_assert_eq!(HostName::parse(&text), Err(HostError::Address));
    }
}
