//! What people type who come from docker(1) and ssh(1): flags that have another name here, and command lines that mean
//! something else.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;
use agentd_policy::rule::Rule;

/// Flags of theirs that agentctl has not, and what to write instead.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["-v", "--volume", "--mount"],
        "paths have their own names in a session: --workspace DIR[:overlay|direct|ro] to work in one, --read PATH to \
         read one",
    ),
    (&["-w", "--workdir", "--cwd"], "--workspace DIR is the directory to work in; a session starts there"),
    (
        &["-u", "--user", "-l", "--login"],
        "a session looks like your own account, and there is no other user in it",
    ),
    (
        &["--privileged", "--cap-add", "--cap-drop", "--security-opt", "--device", "--gpus"],
        "a session has no capabilities and no devices; see agentd-profile(5) for what it can be given",
    ),
    (
        &["--net", "--network", "--add-host", "--dns"],
        "a session reaches nothing but what --allow HOST[:PORT] names; without it there is no network",
    ),
    (
        &["-L", "-R", "-D", "-P", "--publish-all", "--expose"],
        "--publish [HOSTPORT:]PORT for a port of the session, --allow local:PORT for one of this host",
    ),
    (&["--env-file"], "--env KEY=VALUE for each variable, or [environment] in a profile"),
    (&["--entrypoint"], "the command to run stands after the options"),
    (&["--pids-limit"], "--pids N is the most processes and threads"),
    (&["-c", "--cpu-shares", "--cpuset-cpus", "--cpu-quota"], "--cpus N is the most CPUs' worth of time"),
    (&["--memory-swap", "--shm-size", "--ulimit"], "--memory SIZE is the most memory; there is no swap"),
    (&["--stop-timeout"], "--timeout DURATION is when a session ends at the latest"),
    (
        &["--restart", "--init", "--pull", "--platform", "-h", "--hostname"],
        "there is no such thing: leave it out",
    ),
    (&["--read-only"], "--workspace .:ro for a session that can change nothing of the current directory"),
];

/// What to write instead of the flag for which the command line was refused, if it is one that docker or ssh have.
pub fn hint(error: &clap::Error) -> Option<&'static str> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    instead(flag)
}

fn instead(flag: &str) -> Option<&'static str> {
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    HINTS.iter().find(|(flags, _)| flags.contains(&name)).map(|(_, hint)| *hint)
}

/// Refuses a program that is meant as an option.
///
/// # Errors
/// That refusal.
pub fn check(command: &[OsString]) -> Result<(), Failure> {
    match command.first().and_then(|program| program.to_str()) {
        Some(program) if program.starts_with('-') => Err(Failure::refused(
            format!("a program named {program}"),
            Rule::CommandOption,
            format!("options of agentctl stand before `--`; a program of that name is run as ./{program}"),
        )),
        _ => Ok(()),
    }
}

/// What to write instead of a whole line in one word, which ssh gives to a shell: said where there is no such program.
pub fn line(command: &[OsString]) -> Option<String> {
    match command {
        [line] if line.as_bytes().iter().any(u8::is_ascii_whitespace) => {
            Some("a line for a shell is run by one: agentctl run -- sh -c 'LINE'".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn flags_of_docker_and_ssh_have_a_hint() {
        for line in [
            &["run", "-v", "/a:/b", "x"][..],
            &["run", "--volume=/a:/b", "x"],
            &["run", "-itv", "/a:/b", "x"],
            &["run", "--network", "host", "x"],
            &["run", "--privileged", "x"],
            &["run", "-u", "root", "x"],
            &["exec", "-u", "root", "id", "x"],
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"agentctl").chain(line)).unwrap_err();
            assert!(hint(&error).is_some(), "{line:?}: {error}");
        }
        let error = Cli::try_parse_from(["agentctl", "run", "--odd", "x"]).unwrap_err();
        assert_eq!(hint(&error), None);
    }

    #[test]
    fn no_hint_is_for_a_flag_that_works() {
        for flag in HINTS.iter().flat_map(|(flags, _)| flags.iter()).filter(|flag| **flag != "-h") {
            assert!(Cli::try_parse_from(["agentctl", "run", flag, "1", "x"]).is_err(), "{flag}");
        }
    }

    #[test]
    fn options_and_lines_are_no_programs() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(check(&words(&["-x"])).is_err() && check(&words(&["./-x", "-x"])).is_ok());
        assert!(line(&words(&["cd x && make"])).is_some());
        assert!(line(&words(&["make", "a b"])).is_none() && line(&words(&["make"])).is_none());
    }
}
