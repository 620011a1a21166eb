use std::collections::BTreeMap;

use agentd_proto::v1::NetDetail;

use super::*;
use agentd_policy::step::Step;

fn text(metrics: &Metrics) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics.registry).unwrap();
    text
}

/// One of each.
fn used() -> Metrics {
    let metrics = Metrics::new();
    metrics.session_built(&[Timing { step: Step::Order, start_us: 1, end_us: 2 }]);
    metrics.session_ended("exited");
    metrics.refused("bounds.memory");
    let net = NetDetail { count: 3, ..NetDetail::default() };
    let (kind, decision) = ("net.denied".into(), Some("deny".into()));
    metrics.event(&Event { kind, decision, net: Some(net), ..Event::default() });
    metrics.relayed_in(1);
    metrics.relayed_out(2);
    for family in [&metrics.sessions, &metrics.clients, &metrics.queue_length] {
        family.get_or_create(&[("x", "y".to_owned())]).set(1);
    }
    metrics
}

#[test]
fn what_is_exported_is_what_the_manual_has() {
    let text = text(&used());
    let exported: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let page = include_str!("../../../../systemd/man/agentd.8");
    let (_, section) = page.split_once(".SH METRICS\n").unwrap();
    let section = section.split("\n.SH ").next().unwrap();
    let mut documented = BTreeMap::new();
    for entry in section.split(".TP\n").skip(1) {
        let head = entry.lines().next().unwrap();
        let words: Vec<_> =
            head.split_whitespace().map(|word| word.trim_matches(['"', '(', ')', ','])).collect();
        let [".BR", name, .., kind] = words[..] else { panic!("{head}") };
        // Counters and what is said of a build have an ending, which their family has not.
        let name = name.replace("\\-", "-");
        let name = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(&name).to_owned();
        documented.insert(name, kind);
    }
    let documented: BTreeMap<_, _> = documented.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    assert_eq!(exported, documented);
}

#[test]
fn what_is_counted_is_exported() {
    let text = text(&used());
    for line in [
        "agentd_sessions_started_total 1",
        "agentd_sessions_ended_total{reason=\"exited\"} 1",
        "agentd_refusals_total{rule=\"bounds.memory\"} 1",
        "agentd_events_total{kind=\"net.denied\"} 1",
        "agentd_denied_acts_total{kind=\"net.denied\"} 3",
        "agentd_relay_bytes_total{direction=\"out\"} 2",
        "agentd_session_step_seconds_count{step=\"order\"} 1",
        concat!("agentd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn nobody_can_make_labels() {
    let metrics = Metrics::new();
    for hostile in ["", "a b", "a\"} 1\n", "A", &"x".repeat(65), "ä"] {
        metrics.refused(hostile);
    }
    for number in 0..10 * VALUES {
        let letters = number.to_string().bytes().map(|b| char::from(b - b'0' + b'a')).collect::<String>();
        metrics.refused(&letters);
    }
    let text = text(&metrics);
    let rules = text.lines().filter(|line| line.starts_with("agentd_refusals_total{")).count();
    assert!(rules <= VALUES, "{rules}");
    assert!(text.contains("agentd_refusals_total{rule=\"other\"}"));
}

#[test]
fn a_depth_goes_with_whoever_has_it() {
    let metrics = Metrics::new();
    let (mut one, mut two) = (metrics.unacknowledged(), metrics.unacknowledged());
    one.set(5);
    two.set(3);
    one.set(4);
    let spools = metrics.queue_length.get_or_create_owned(&[("queue", "spools".to_owned())]);
    assert_eq!(spools.get(), 7);
    drop(one);
    assert_eq!(spools.get(), 3);
}
