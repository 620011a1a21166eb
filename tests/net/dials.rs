//! Names with several addresses of which one is of no use.

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

pub const TESTS: &[Named] =
    tests![ipv6_that_leads_nowhere, ipv4_that_leads_nowhere, addresses_that_all_refuse,];

/// What curl says to a name of which the session knows all addresses, and the address and end of each connection.
fn fetch(world: &World, rule: &str, family: &str, url: &str) -> (String, Vec<(String, String)>) {
    let host = rule.split(':').next().unwrap_or(rule);
    let script = format!("getent ahosts {host} >/dev/null; curl -sS {family} {url} || echo \"code $?\"");
    let output = world.session().past_the_proxy().options(["--allow", rule]).bash(&script).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let closed = events.iter().filter(|event| event["kind"] == "net.closed");
    let ends = closed.map(|event| (text_at(event, "/net/address"), text_at(event, "/net/reason"))).collect();
    (output.text(), ends)
}

fn ipv6_that_leads_nowhere(world: &World) {
    let (text, ends) = fetch(world, "sixdead.test", "-6", "http://sixdead.test/");
    assert_eq!(text, "this is sixdead.test\n");
    assert_eq!(ends, [("2001:db8:dead::1", "unused"), ("192.0.2.80", "closed")].map(texts));
}

fn ipv4_that_leads_nowhere(world: &World) {
    let (text, ends) = fetch(world, "fourdead.test", "-4", "http://fourdead.test/");
    assert_eq!(text, "this is fourdead.test\n");
    assert_eq!(ends, [("198.51.100.250", "unused"), ("2001:db8::80", "closed")].map(texts));
}

fn addresses_that_all_refuse(world: &World) {
    let (text, ends) = fetch(world, "good.test:81", "-4", "http://good.test:81/");
    assert!(text == "code 56\n" || text == "code 52\n", "{text}");
    let why = "failed: Connection refused (os error 111)";
    assert_eq!(ends, [("192.0.2.80", why), ("2001:db8::80", why)].map(texts));
}

fn texts((address, reason): (&str, &str)) -> (String, String) {
    (address.to_owned(), reason.to_owned())
}
