//! `agentctl completion`: scripts for shells. Commands and options are in them; for sessions and profiles they ask
//! `agentctl words`.

use std::time::Duration;

use agentd_proto::v1::ListRequest;
use clap::{Command, CommandFactory};
use clap_complete::generate;

use crate::cli::{Cli, Shell, Words};
use crate::connect::{Socket, answer_within};
use crate::failure::Failure;
use crate::profile;
use crate::show::print;

/// What the scripts have besides what is made from the command line's definition.
const BASH: &str = include_str!("completion/agentctl.bash");
const FISH: &str = include_str!("completion/agentctl.fish");
const ZSH: &str = include_str!("completion/agentctl.zsh");
/// How long somebody who has pressed a key waits for the daemon.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints the script for `shell`.
///
/// # Errors
/// If it cannot be written.
pub fn completion(shell: Shell) -> Result<(), Failure> {
    print(&script(shell))
}

/// Prints the words of a kind, one a line.
///
/// # Errors
/// As the daemon says.
pub async fn words(socket: &Socket, kind: Words) -> Result<(), Failure> {
    let words = match kind {
        Words::Profiles => profile::names(),
        Words::Running | Words::Sessions => {
            let request = ListRequest { all: kind == Words::Sessions };
            let sessions = answer_within(LIST_TIMEOUT, socket.connect().await?.list(request)).await?.sessions;
            sessions.into_iter().flat_map(|session| [session.id, session.name]).collect()
        }
    };
    let mut out = String::new();
    for word in words.iter().filter(|word| is_plain(word)) {
        out.push_str(&format!("{word}\n"));
    }
    print(&out)
}

/// Whether it is a word to every shell, and means nothing else.
fn is_plain(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain)
}

fn script(shell: Shell) -> String {
    let command = visible(&Cli::command());
    let made = |generator| {
        let mut bytes = Vec::new();
        generate::<clap_complete::Shell, _>(generator, &mut command.clone(), "agentctl", &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    match shell {
        Shell::Bash => made(clap_complete::Shell::Bash) + &BASH.replace("@VALUES@", &with_values(&command)),
        Shell::Fish => made(clap_complete::Shell::Fish) + FISH,
        Shell::Zsh => with_words(&made(clap_complete::Shell::Zsh)),
    }
}

/// The same without what is hidden, which the scripts would offer.
fn visible(command: &Command) -> Command {
    let mut out = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        out = out.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        out = out.version(version.to_owned());
    }
    out.args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|below| !below.is_hide_set()).map(visible))
}

/// The options that take a value, as bash's patterns of `SUBCOMMAND:OPTION`.
fn with_values(command: &Command) -> String {
    let of = |command: &Command, name: &str| {
        let mut found = Vec::new();
        for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            found.extend(arg.get_long().map(|long| format!("{name}:--{long}")));
            found.extend(arg.get_short().map(|short| format!("{name}:-{short}")));
        }
        found
    };
    let mut patterns = of(command, "*");
    patterns.extend(command.get_subcommands().flat_map(|below| of(below, below.get_name())));
    patterns.join("|")
}

/// Puts in the words that clap leaves to zsh's own completion.
fn with_words(script: &str) -> String {
    let mut out = String::with_capacity(script.len() + ZSH.len());
    let mut command = "";
    for line in script.lines() {
        if let Some(name) = line.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
            command = name;
        }
        let action = match command {
            "attach" | "exec" | "stop" | "kill" | "allow" | "deny" if line.contains("unique prefix") => {
                "_agentctl_running"
            }
            _ if line.contains("unique prefix") => "_agentctl_sessions",
            _ if line.contains("[A profile by name") => "_agentctl_profiles",
            "show" | "check" if line.contains("A profile by name") => "_agentctl_profiles",
            "kill" if line.contains("-signal=") || line.contains("'-s+") => "_signals",
            "run" if line.contains("--workspace=") => "_files -/",
            "exec" if line.contains("--cwd=") => "_files -/",
            "run" | "exec" if line.starts_with("'*::command") => "_normal",
            _ => "_default",
        };
        let line = line.replacen(":_default'", &format!(":{action}'"), 1);
        // Three colons: of the words, those of the command alone.
        out += &line.replacen("'*::command", "'*:::command", 1);
        out.push('\n');
        if line.starts_with("#compdef") {
            out += ZSH;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_asks_for_words() {
        for (shell, words) in [
            (
                Shell::Bash,
                &["complete -F _agentctl_or_words", "run:--profile|", "|stop:-t|", "*:--socket"][..],
            ),
            (Shell::Fish, &["agentctl words running"]),
            (
                Shell::Zsh,
                &["or a name:_agentctl_running'", ":_agentctl_profiles'", ":_normal'", ":_signals'"],
            ),
        ] {
            let script = script(shell);
            for word in words.iter().chain(&["detach", "inspect"]) {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
            for hidden in ["manpages", "@VALUES@", "'words"] {
                assert!(!script.contains(hidden), "{shell:?}: {hidden}");
            }
        }
    }

    #[test]
    fn a_word_is_one_to_every_shell() {
        assert!(is_plain("a3f2") && is_plain("my.profile_2-x"));
        for odd in ["", "-x", "a b", "$(id)", "a;b", "a'b", "\x1b[m", "ä"] {
            assert!(!is_plain(odd), "{odd:?}");
        }
    }
}
