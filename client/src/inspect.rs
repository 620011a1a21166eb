//! `agentctl inspect`: a session's plan, limits and state.

use agentd_policy::limits::Limit;
use agentd_policy::quantity::Amount;
use agentd_policy::size::{format_duration_ms, format_size, readable_size};
use agentd_proto::v1::{InspectReply, InspectRequest, Limits, Network, Session};
use agentd_request::limits::planned;

use crate::cli::IdsArgs;
use crate::connect::{Socket, answer};
use crate::failure::Failure;
use crate::sessions::{attached, state};
use crate::several::All;
use crate::show::{clean, json, print};

/// Prints all that is known of sessions.
///
/// # Errors
/// As the daemon says.
pub async fn inspect(socket: &Socket, args: IdsArgs) -> Result<(), Failure> {
    let mut client = socket.connect().await?;
    let mut all = All::default();
    let mut first = true;
    for id in args.ids {
        match answer(client.inspect(InspectRequest { id })).await {
            Ok(reply) if args.json => print(&(json(&reply)? + "\n"))?,
            Ok(reply) => {
                let gap = if std::mem::take(&mut first) { "" } else { "\n" };
                print(&format!("{gap}{}", text(&reply)))?;
            }
            Err(failure) => all.failed(failure),
        }
    }
    all.done()
}

/// As a person reads it.
fn text(reply: &InspectReply) -> String {
    let none = Session::default();
    let session = reply.session.as_ref().unwrap_or(&none);
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{name:<11}{}\n", clean(value)));
        }
    };
    line("Id", &session.id);
    line("Name", &session.name);
    line("User", &session.user);
    line("State", &state(session));
    line("Message", session.exit.as_ref().map_or("", |exit| &exit.message));
    line("Attached", &attached(session));
    line("Profile", &session.profile);
    line("Command", &reply.command.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" "));
    line("Directory", &reply.cwd);
    line("Terminal", if reply.terminal { "yes" } else { "no" });
    line("Created", &session.created);
    line("Started", &reply.started);
    line("Ended", &reply.ended);
    line("Events", &reply.events.to_string());
    line("Output", &readable_size(reply.output));
    line("Commands", &format!("{} besides its first", reply.commands));
    line(
        "At its end",
        if reply.remove { "it is forgotten (--rm)" } else { "it is kept until it is removed" },
    );
    if let Some(limits) = &reply.limits {
        out += "Limits\n";
        for (name, value) in limit_lines(limits) {
            out.push_str(&format!("  {name:<11} {value}\n"));
        }
    }
    if !reply.mounts.is_empty() {
        out += "Mounts\n";
    }
    for mount in &reply.mounts {
        let [kind, mode, path] = [&mount.kind, &mount.mode, &mount.path].map(|text| clean(text));
        let source = match mount.source.as_str() {
            "changed" => " (has changed since the session began; the session may see what it was)",
            "unknown" => " (may have changed since the session began)",
            _ => "",
        };
        out.push_str(&format!("  {kind:<11} {mode:<8} {path}{source}\n"));
    }
    if let Some(network) = &reply.network {
        out += "Network\n";
        for (name, value) in network_lines(network) {
            out.push_str(&format!("  {name:<11} {}\n", clean(&value)));
        }
    }
    out
}

fn network_lines(network: &Network) -> impl Iterator<Item = (&'static str, String)> {
    let allow = network.allow.iter().map(|rule| ("allow", format!("{rule}{}", caps(network, rule))));
    let nothing = network.allow.is_empty().then(|| ("allow", "nothing".to_owned()));
    let deny = network.deny.iter().map(|name| ("deny", name.clone()));
    let resolvers = network.resolvers.iter().map(|address| ("resolver", address.clone()));
    let kinds = network.dns_types.iter().map(|kind| ("dns type", kind.clone()));
    let proxy = network.proxy_env.then(|| ("proxy", "named in the environment".to_owned()));
    let publish = network.publish.iter().map(|port| ("publish", port.clone()));
    allow.chain(nothing).chain(deny).chain(resolvers).chain(kinds).chain(proxy).chain(publish)
}

/// What a rule lets through at most, behind it.
fn caps(network: &Network, rule: &str) -> String {
    let Some(cap) = network.caps.iter().find(|cap| cap.rule == rule) else { return String::new() };
    let connections = (cap.max_connections > 0).then(|| format!(", {} at a time", cap.max_connections));
    let sent = (cap.max_sent > 0).then(|| format!(", {} sent in all", size(cap.max_sent)));
    connections.into_iter().chain(sent).collect()
}

/// A line for each limit, and behind those of the overlay what enforces them.
fn limit_lines(limits: &Limits) -> impl Iterator<Item = (String, String)> {
    let planned = planned(limits);
    Limit::ALL.iter().flat_map(move |limit| {
        let text = match planned.get(*limit) {
            Amount::Size(bytes) => size(bytes),
            Amount::Span(ms) => duration(ms),
            amount => amount.to_string(),
        };
        let form = (*limit == Limit::Inodes).then(|| ("disk form".to_owned(), enforced(&limits.disk_form)));
        [(limit.name().replace('_', " "), text)].into_iter().chain(form)
    })
}

/// What the words for it mean.
fn enforced(form: &str) -> String {
    match form {
        "" => "none: nothing is kept on disk".into(),
        "watch" => "watch: a session that exceeds it is ended".into(),
        form => format!("{form}: what exceeds it is refused"),
    }
}

/// As `--memory` takes it, if it is a whole number of something.
fn size(bytes: u64) -> String {
    let text = format_size(bytes);
    if text.ends_with(|c: char| c.is_ascii_digit()) { format!("{text} bytes") } else { text }
}

/// As `--timeout` takes it.
fn duration(ms: u64) -> String {
    if ms == 0 { "none".to_owned() } else { format_duration_ms(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_proto::v1::{Cap, Mount};

    #[test]
    fn quantities_read_as_they_are_written() {
        assert_eq!([size(4 << 30), size(1536 << 20), size(1001)], ["4G", "1536M", "1001 bytes"]);
        assert_eq!(
            [duration(28_800_000), duration(90_000), duration(1), duration(0)],
            ["8h", "90s", "1ms", "none"]
        );
    }

    #[test]
    fn nothing_raw_is_shown() {
        let foul = "\x1b]0;x\x07\n\u{202e}".to_owned();
        let session =
            Session { name: foul.clone(), command: foul.clone(), state: foul.clone(), ..Session::default() };
        let reply = InspectReply {
            session: Some(session),
            command: vec![foul.clone()],
            cwd: foul.clone(),
            mounts: vec![Mount {
                path: foul.clone(),
                kind: foul.clone(),
                mode: foul.clone(),
                source: foul.clone(),
            }],
            network: Some(Network {
                allow: vec![foul.clone()],
                deny: vec![foul.clone()],
                resolvers: vec![foul.clone()],
                proxy_env: true,
                dns_types: vec![foul.clone()],
                caps: vec![Cap { rule: foul.clone(), max_connections: 2, max_sent: 10 << 20 }],
                publish: vec![foul],
            }),
            limits: Some(Limits::default()),
            ..InspectReply::default()
        };
        for shown in [text(&reply), json(&reply).unwrap()] {
            assert!(!shown.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
        }
        assert_eq!(text(&reply).lines().count(), 29, "{}", text(&reply));
        assert!(text(&reply).contains(", 2 at a time, 10M sent in all\n"), "{}", text(&reply));
    }
}
