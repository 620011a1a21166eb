//! What agentd-rules(7) has of each rule: its sections are those of the table.

use super::Rule;
use crate::limits::Limit;
use crate::step::Step;

/// The longest line of the page.
const WIDTH: usize = 118;

/// The sections of the page, as roff.
fn sections() -> String {
    let mut out = String::new();
    let of_limits: Vec<_> = Limit::ALL.iter().copied().map(Rule::Bounds).collect();
    let limits = ("RULES FOR LIMITS OF ONE SESSION", of_limits.as_slice());
    for (section, rules) in Rule::SECTIONS.iter().copied().chain([limits]) {
        out.push_str(&format!(".SH {}\n", escaped(section)));
        for rule in rules {
            let name = escaped(rule.name());
            out.push_str(".TP\n");
            match rule.argument() {
                None => out.push_str(&format!(".B {name}\n")),
                Some(argument) => match argument.strip_prefix('.') {
                    Some(part) => out.push_str(&format!(".BI {name}. {part}\n")),
                    None => out.push_str(&format!(".BI {name} \"{argument}\"\n")),
                },
            }
            out.push_str(&paragraph(rule.text()));
        }
    }
    let steps: Vec<_> = Step::ALL.iter().map(ToString::to_string).collect();
    let text = format!(
        "This step of building the session failed; the launcher's log has more. The steps are {}.",
        steps.join(", ")
    );
    out + ".SH RULES FOR STEPS OF THE BUILD\n.TP\n.BI build. STEP\n" + &paragraph(&text)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A word with its code, and the name of a manual page, in bold.
fn paragraph(text: &str) -> String {
    let mut bold = false;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut shown = String::new();
        for (at, part) in escaped(word).split('`').enumerate() {
            if at > 0 {
                bold = !bold;
                shown.push_str(if bold { "\\fB" } else { "\\fR" });
            }
            shown.push_str(part);
        }
        let page = shown.split_once('(').filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
        if let Some((name, rest)) = page {
            shown = format!("\\fB{name}\\fR({rest}");
        }
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = shown,
            Some(line) if line.len() + 1 + shown.len() <= WIDTH => *line = format!("{line} {shown}"),
            _ => lines.push(shown),
        }
    }
    let lines = lines.iter().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

/// `UPDATE_GOLDEN=1` writes the page's sections anew.
#[test]
fn the_manual_page_has_every_rule_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/man/agentd-rules.7");
    let page = std::fs::read_to_string(path).unwrap();
    let begin = page.find(".SH RULES OF").unwrap();
    let end = page.find(".SH EXAMPLES").unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{}{}{}", &page[..begin], sections(), &page[end..])).unwrap();
    } else {
        assert_eq!(page[begin..end], sections(), "UPDATE_GOLDEN=1 writes it");
    }
}
