//! Manual pages, from the command line's own definition: one of `agentctl` and one of each subcommand.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;

/// Pages of agentd that are not written from here.
const OTHERS: [(&str, &str); 5] = [
    ("agentd-profile", "5"),
    ("agentd.toml", "5"),
    ("agentd-rules", "7"),
    ("agentd", "8"),
    ("agentd-launcher", "8"),
];

/// Writes all pages into the directory `dir`.
pub fn write(dir: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Names of subcommands become whole: `agentctl run`, page `agentctl-run`.
    command.build();
    pages(&command, dir)
}

fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut file = BufWriter::new(File::create(dir.join(format!("{name}.1")))?);
    page(command, name, &mut file)?;
    file.flush()?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| pages(below, dir))
}

fn page(command: &Command, name: &str, out: &mut dyn Write) -> io::Result<()> {
    // The heading names the page; what one types has a space instead.
    let source = format!("agentd {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name).section("1").source(source).manual("agentd");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(out)?;
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(out)?;
    }
    let mut roff = Roff::new();
    if let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        after(&mut roff, &text.to_string());
    }
    see_also(&mut roff, name);
    roff.to_writer(out)
}

/// What stands below the options in `--help`: paragraphs, each of which may begin with its own heading.
fn after(roff: &mut Roff, text: &str) {
    for paragraph in text.split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            roff.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in examples.lines() {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
        } else if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
            roff.control("SH", ["EXIT STATUS"]);
            lines(roff, codes);
        } else {
            roff.control("SH", ["NOTES"]);
            lines(roff, paragraph);
        }
    }
}

fn lines(roff: &mut Roff, text: &str) {
    for line in text.lines() {
        roff.text([roman(line.trim())]);
    }
}

fn see_also(roff: &mut Roff, name: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let own = (name != "agentctl").then_some(("agentctl", "1"));
    let mut pages = own.into_iter().chain(OTHERS).peekable();
    while let Some((page, section)) = pages.next() {
        let end = if pages.peek().is_some() { format!("({section}), ") } else { format!("({section})") };
        roff.text([bold(page), roman(end)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = std::env::temp_dir().join(format!("agentctl-man-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        write(&dir).unwrap();
        for name in ["agentctl", "agentctl-run", "agentctl-profile-show"] {
            let text = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
            assert!(text.contains(".SH EXAMPLES") && text.contains("agentd.toml"), "{text}");
        }
        assert!(!dir.join("agentctl-manpages.1").exists() && !dir.join("agentctl-help.1").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
