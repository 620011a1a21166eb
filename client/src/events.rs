//! `agentctl events`: events as lines for a person, or as JSON.

use agentd_policy::size::{format_size, readable_duration};
use agentd_proto::v1::{Event, EventsRequest, ExecDetail, ReviewDetail};

use crate::cli::{Decision, EventsArgs};
use crate::connect::Socket;
use crate::failure::Failure;
use crate::show::{clean, colours, json, print, word, words};

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Prints events as they come.
///
/// # Errors
/// As the daemon says.
pub async fn events(socket: &Socket, args: EventsArgs) -> Result<(), Failure> {
    let decision = match args.decision {
        None => "",
        Some(Decision::Allow) => "allow",
        Some(Decision::Deny) => "deny",
    };
    let request = EventsRequest {
        id: args.id.unwrap_or_default(),
        follow: args.follow,
        kinds: args.kind,
        decision: decision.into(),
        since: args.since.unwrap_or_default(),
    };
    let colours = !args.json && colours();
    let mut client = socket.connect().await?;
    let mut stream = client.events(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        let mut text = if args.json { json(&event)? } else { line(&event, colours) };
        text.push('\n');
        print(&text)?;
    }
    Ok(())
}

/// An event as a person reads it.
fn line(event: &Event, colours: bool) -> String {
    let colour = |code: &'static str| if colours { code } else { "" };
    let Event { session, seq, time, kind, decision, rule, .. } = event;
    let mut out = String::with_capacity(128);
    out.push_str(&format!("{}{}{} ", colour(DIM), clean(time), colour(PLAIN)));
    out.push_str(&format!("{} {seq} {}", clean(session), clean(kind)));
    if let Some(decision) = decision {
        let code = if decision == "deny" { RED } else { GREEN };
        out.push_str(&format!(" {}{}{}", colour(code), clean(decision), colour(PLAIN)));
        if let Some(rule) = rule {
            out.push_str(&format!(" ({})", clean(rule)));
        }
    }
    out.push_str(&clean(&detail(event)));
    out
}

/// What it is about. What is not agentctl's own is quoted, if it could be taken for that.
fn detail(event: &Event) -> String {
    let mut out = String::new();
    if let Some(actor) = &event.actor {
        if actor.pid > 0 {
            out.push_str(&format!(" pid {}", actor.pid));
        }
        if let Some(ppid) = actor.ppid {
            out.push_str(&format!(" of {ppid}"));
        }
        if let (Some(exe), None) = (&actor.exe, &event.exec) {
            out.push_str(&format!(" {}", word(exe)));
        }
    }
    if let Some(exec) = &event.exec {
        out.push_str(&format!(" {}", word(&exec.path)));
        if !exec.argv.is_empty() {
            let claimed = if exec.argv_claimed { " claims" } else { "" };
            out.push_str(&format!("{claimed} {:?}", exec.argv));
        }
        let interpreters = interpreters(exec);
        if !interpreters.is_empty() {
            out.push_str(&format!(" by {}", words(interpreters)));
        }
        if let Some(image) = exec.image.as_ref().filter(|image| !interpreters.contains(image)) {
            out.push_str(&format!(" now {}", word(image)));
        }
        match exec.result.as_deref() {
            Some("failed") if event.decision.as_deref() != Some("deny") => out.push_str(" failed"),
            Some("unknown") => out.push_str(" ended before it was known whether it ran"),
            _ => {}
        }
        out.push_str(&times(exec.count.unwrap_or(1)));
    }
    if let Some(exit) = &event.exit {
        out.push_str(&ending(exit.code, exit.signal));
    }
    if let Some(net) = &event.net {
        let from = if net.direction.as_deref() == Some("in") { " from" } else { "" };
        out.push_str(&format!(" {}{from} {}", word(&net.protocol), word(&net.address)));
        if let Some(port) = net.port {
            out.push_str(&format!(" port {port}"));
        }
        if let Some(port) = net.published {
            out.push_str(&format!(" to port {port}"));
        }
        if let Some(name) = &net.name {
            out.push_str(&format!(" {}", word(name)));
        }
        if let (Some(sent), Some(received), Some(ms)) = (net.sent, net.received, net.duration_ms) {
            out.push_str(&format!(" sent {sent} received {received} bytes in {ms} ms"));
        }
        if let Some(reason) = &net.reason {
            out.push_str(&format!(": {reason}"));
        }
        out.push_str(&times(net.count));
    }
    if let Some(http) = &event.http {
        out.push_str(&format!(" {} {}", word(&http.method), word(&http.host)));
    }
    if let Some(dns) = &event.dns {
        out.push_str(&format!(" {} {}", word(&dns.r#type), word(&dns.name)));
        if !dns.answers.is_empty() {
            out.push_str(&format!(" is {}", words(&dns.answers)));
        }
        out.push_str(&times(dns.count));
    }
    if let Some(review) = &event.review {
        let ReviewDetail { action, files, remaining, user } = review;
        out.push_str(&format!(" {} {files}, {remaining} left", word(action)));
        if let Some(user) = user {
            out.push_str(&format!(" by {}", word(user)));
        }
    }
    if let Some(policy) = &event.policy {
        out.push_str(&format!(" {}", policy.change));
        if let Some(user) = &policy.user {
            out.push_str(&format!(" by {}", word(user)));
        }
    }
    if let Some(confine) = &event.confine {
        let argument = confine.argument.as_deref().unwrap_or_default();
        out.push_str(&format!(" {}({argument})", word(&confine.call)));
        out.push_str(&times(confine.count));
    }
    if let Some(file) = &event.file {
        out.push_str(&format!(" {}: {}", file.path, file.finding));
        if let Some(setting) = &file.setting {
            out.push_str(&format!(": {}", word(setting)));
        }
        if let Some(value) = &file.value {
            out.push_str(&format!(" = {}", word(value)));
        }
        if file.more > 0 {
            out.push_str(&format!(", and {} more", file.more));
        }
    }
    if let Some(limit) = &event.limit {
        out.push_str(&format!(" {}", word(&limit.name)));
        if let Some(value) = limit.limit {
            out.push(' ');
            out.push_str(&match limit.name.as_str() {
                name if name.starts_with('/') => format_size(value),
                "memory" | "disk" | "disk_reserve" => format_size(value),
                "timeout" | "idle" => readable_duration(value),
                _ => value.to_string(),
            });
        }
    }
    if let Some(lifecycle) = &event.lifecycle {
        for text in [&lifecycle.user, &lifecycle.profile, &lifecycle.reason].into_iter().flatten() {
            out.push_str(&format!(" {}", word(text)));
        }
        out.push_str(&ending(lifecycle.code, lifecycle.signal));
        if !lifecycle.command.is_empty() {
            out.push_str(&format!(" {:?}", lifecycle.command));
        }
        if let Some(message) = &lifecycle.message {
            out.push_str(&format!(": {message}"));
        }
    }
    if let Some(dropped) = &event.dropped {
        out.push_str(&match dropped.count {
            0 => " events: how many is unknown".to_owned(),
            count => format!(" {count} events"),
        });
    }
    out
}

/// The interpreters of a script. The ELF loader, which comes after the program that runs, is the record's alone.
fn interpreters(exec: &ExecDetail) -> &[String] {
    let program = match (&exec.image, exec.result.as_deref()) {
        (Some(image), _) => exec.interpreters.iter().position(|interpreter| interpreter == image),
        (None, Some("ran")) => None,
        (None, _) => exec.interpreters.len().checked_sub(1),
    };
    program.map_or(&[], |program| &exec.interpreters[..=program])
}

fn times(count: u64) -> String {
    if count > 1 { format!(" {count} times") } else { String::new() }
}

fn ending(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!(" code {code}"),
        (None, Some(signal)) => format!(" signal {signal}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_proto::v1::{Actor, DnsDetail, HttpDetail, NetDetail, PolicyDetail};

    fn event() -> Event {
        Event {
            session: "0123456789ab".into(),
            seq: 3,
            time: "2026-01-02T03:04:05.678901Z".into(),
            kind: "net.denied".into(),
            decision: Some("deny".into()),
            rule: Some("default".into()),
            net: Some(NetDetail {
                protocol: "tcp".into(),
                address: "192.0.2.1".into(),
                port: Some(80),
                count: 2,
                ..NetDetail::default()
            }),
            ..Event::default()
        }
    }

    #[test]
    fn a_line_for_a_person() {
        assert_eq!(
            line(&event(), false),
            "2026-01-02T03:04:05.678901Z 0123456789ab 3 net.denied deny (default) tcp 192.0.2.1 port 80 2 times"
        );
        assert!(!json(&event()).unwrap().contains("null"));
        assert!(line(&event(), true).contains("\x1b[31mdeny\x1b[0m"));
    }

    #[test]
    fn what_went_out_is_shown() {
        let of = |event: Event| detail(&event);
        let net = NetDetail {
            protocol: "tcp".into(),
            address: "192.0.2.1".into(),
            port: Some(443),
            count: 1,
            name: Some("a.example".into()),
            ..NetDetail::default()
        };
        let plain = Event::default();
        let open = Event { net: Some(net.clone()), ..plain.clone() };
        assert_eq!(of(open), " tcp 192.0.2.1 port 443 a.example");
        let closed = NetDetail {
            sent: Some(5),
            received: Some(7),
            duration_ms: Some(9),
            reason: Some("policy".into()),
            ..net.clone()
        };
        let closed = of(Event { net: Some(closed), ..plain.clone() });
        assert_eq!(closed, " tcp 192.0.2.1 port 443 a.example sent 5 received 7 bytes in 9 ms: policy");
        let direction = Some("in".into());
        let inward = NetDetail { name: None, direction, published: Some(3000), ..net.clone() };
        let inward = of(Event { net: Some(inward), ..plain.clone() });
        assert_eq!(inward, " tcp from 192.0.2.1 port 443 to port 3000");
        let http = HttpDetail { method: "GET".into(), host: "b.example".into() };
        let refused = of(Event { net: Some(net), http: Some(http), ..plain.clone() });
        assert_eq!(refused, " tcp 192.0.2.1 port 443 a.example GET b.example");
        let answers = vec!["192.0.2.1".into(), "2001:db8::1".into()];
        let dns = DnsDetail { name: "a.example".into(), r#type: "A".into(), answers, count: 3 };
        let asked = of(Event { dns: Some(dns), ..plain.clone() });
        assert_eq!(asked, " A a.example is 192.0.2.1, 2001:db8::1 3 times");
        let policy = PolicyDetail { change: "deny a.example".into(), user: Some("alice".into()) };
        assert_eq!(of(Event { policy: Some(policy), ..plain }), " deny a.example by alice");
    }

    #[test]
    fn names_that_the_agent_asked_for_are_escaped() {
        let foul = "\x1b]52;c;x\x07\n\u{202e}".to_owned();
        let net = NetDetail { name: Some(foul.clone()), reason: Some(foul.clone()), ..NetDetail::default() };
        let dns =
            DnsDetail { name: foul.clone(), r#type: foul.clone(), answers: vec![foul.clone()], count: 1 };
        let http = HttpDetail { method: foul.clone(), host: foul.clone() };
        let policy = PolicyDetail { change: foul.clone(), user: Some(foul) };
        let (net, dns, http, policy) = (Some(net), Some(dns), Some(http), Some(policy));
        let event = Event { net, dns, http, policy, ..event() };
        for text in [line(&event, false), json(&event).unwrap()] {
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn a_loader_is_no_news_and_what_became_of_an_exec_is() {
        let of = |exec: &ExecDetail| detail(&Event { exec: Some(exec.clone()), ..Event::default() });
        let loader = "/usr/lib/ld.so".to_owned();
        let program = ExecDetail {
            path: "/usr/bin/git".into(),
            interpreters: vec![loader.clone()],
            result: Some("ran".into()),
            ..ExecDetail::default()
        };
        assert_eq!(of(&program), " /usr/bin/git");
        let script = ExecDetail {
            path: "/w/run".into(),
            interpreters: vec!["/w/outer".into(), "/usr/bin/dash".into(), loader],
            image: Some("/usr/bin/dash".into()),
            ..program.clone()
        };
        assert_eq!(of(&script), " /w/run by /w/outer, /usr/bin/dash");
        let renamed = ExecDetail { image: Some("/w/other".into()), ..program.clone() };
        assert_eq!(of(&renamed), " /usr/bin/git now /w/other");
        let (interpreters, result) = (vec![], Some("failed".into()));
        let failed = ExecDetail { interpreters, result, count: Some(3), ..program.clone() };
        assert_eq!(of(&failed), " /usr/bin/git failed 3 times");
        let unknown = ExecDetail { result: Some("unknown".into()), ..failed };
        assert_eq!(
            of(&ExecDetail { count: None, ..unknown }),
            " /usr/bin/git ended before it was known whether it ran"
        );
    }

    #[test]
    fn what_the_agent_chose_is_escaped() {
        let exec = ExecDetail {
            path: "/w/\x1b]52;c;x\x07".into(),
            argv: vec!["a\nb".into(), "\u{202e}".into()],
            argv_claimed: true,
            ..ExecDetail::default()
        };
        let actor = Actor { pid: 5, exe: Some("\u{9b}1m".into()), ppid: Some(1) };
        let event = Event { exec: Some(exec), actor: Some(actor), ..event() };
        for text in [line(&event, false), json(&event).unwrap()] {
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }
}
