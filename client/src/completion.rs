//! `agentctl completion`: scripts for shells, which ask for sessions as they are.

use clap::CommandFactory;
use clap_complete::generate;

use crate::cli::{Cli, Shell};
use crate::failure::Failure;
use crate::show::print;

/// After the commands and flags: the sessions, for the commands that name some.
const BASH: &str = r#"
_agentctl_or_session() {
    case "${COMP_WORDS[1]}" in
        attach|exec|inspect|logs|stop|kill|rm|events)
            if [[ "$2" != -* && "$3" != -* && " ${COMP_WORDS[*]} " != *" -- "* ]]; then
                COMPREPLY=($(compgen -W "$(agentctl ps -a --words 2>/dev/null)" -- "$2"))
                return
            fi
            ;;
    esac
    _agentctl "$@"
}
complete -F _agentctl_or_session -o bashdefault -o default agentctl
"#;

const FISH: &str = r#"
complete -c agentctl -n "__fish_seen_subcommand_from attach exec inspect logs stop kill rm events" -f -a "(agentctl ps -a --words 2>/dev/null)"
"#;

const ZSH: &str = r"
_agentctl_sessions() {
    local -a sessions
    sessions=(${(f)$(agentctl ps -a --words 2>/dev/null)})
    compadd -a sessions
}
";

/// Prints the script for `shell`.
///
/// # Errors
/// If it cannot be written.
pub fn completion(shell: Shell) -> Result<(), Failure> {
    print(&script(shell))
}

fn script(shell: Shell) -> String {
    let made = |generator| {
        let mut bytes = Vec::new();
        generate::<clap_complete::Shell, _>(generator, &mut Cli::command(), "agentctl", &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    match shell {
        Shell::Bash => made(clap_complete::Shell::Bash) + BASH,
        Shell::Fish => made(clap_complete::Shell::Fish) + FISH,
        Shell::Zsh => with_sessions(&made(clap_complete::Shell::Zsh)),
    }
}

/// The words that clap leaves to zsh's own completion, where they are sessions.
fn with_sessions(script: &str) -> String {
    let mut out = String::with_capacity(script.len() + 512);
    for line in script.lines() {
        let is_session = line.contains("unique prefix");
        out +=
            &if is_session { line.replacen(":_default", ":_agentctl_sessions", 1) } else { line.to_owned() };
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
    fn every_shell_asks_for_sessions() {
        for (shell, word) in [
            (Shell::Bash, "complete -F _agentctl_or_session"),
            (Shell::Fish, "ps -a --words"),
            (Shell::Zsh, ":_agentctl_sessions"),
        ] {
            let script = script(shell);
            assert!(script.contains(word) && script.contains("detach"), "{shell:?}");
        }
    }
}
