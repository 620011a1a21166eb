use super::*;
use agentd_policy::quantity::Size;
use clap::CommandFactory;

fn run_args(line: &[&str]) -> RunArgs {
    let line = ["agentctl", "run"].iter().chain(line);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_follows_the_command_is_the_commands() {
    assert_eq!(run_args(&["--rm", "ls", "-l", "--json"]).command, ["ls", "-l", "--json"]);
    assert!(!run_args(&["ls", "--json"]).json);
    assert_eq!(run_args(&["--", "--odd", "--", "x"]).command, ["--odd", "--", "x"]);
    assert_eq!(run_args(&["sh", "-c", "x", "--", "y"]).command, ["sh", "-c", "x", "--", "y"]);
}

#[test]
fn the_last_of_t_and_upper_t_holds() {
    assert!(run_args(&["-T", "-t", "x"]).tty);
    let args = run_args(&["-t", "-T", "x"]);
    assert!(args.no_tty && !args.tty);
}

#[test]
fn habits_from_docker_and_ssh_work() {
    let args = run_args(&["-it", "--rm", "-e", "A=b", "-eC", "-m", "2g", "-p", "8080:80", "sh", "-c", "x"]);
    assert!(args.tty && args._interactive && args.rm);
    assert_eq!((args.env.len(), args.limits.0.memory, args.publish.len()), (2, Some(Size(2 << 30)), 1));
    assert_eq!(args.command, ["sh", "-c", "x"]);
    assert!(run_args(&["-tt", "x"]).tty && run_args(&["-i", "-i", "-dit", "x"]).detach);
    assert_eq!(run_args(&["--", "-x"]).command, ["-x"]);
    let line = ["agentctl", "exec", "-it", "-w", "/tmp", "-eA=b", "x", "bash", "-l"];
    let Command::Exec(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
    assert_eq!((args.id.as_str(), args.tty, args.command.len()), ("x", true, 2));
    let line = ["agentctl", "stop", "-t", "5", "x"];
    let Command::Stop(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
    assert_eq!(args.time, Some(5_000));
}

#[test]
fn hosts_are_allowed_and_denied_one_by_one() {
    let args = run_args(&["--allow", "a.example", "--allow=local:5432", "--deny", "b.example", "x"]);
    assert_eq!((args.allow.len(), args.deny.len(), args.command.len()), (2, 1, 1));
    assert_eq!(run_args(&["--publish", "3000", "--publish=8080:80", "x"]).publish, ["3000", "8080:80"]);
    let Command::Allow(args) =
        Cli::try_parse_from(["agentctl", "allow", "x", "a.example:443", "[2001:db8::/32]:80"])
            .unwrap()
            .command
    else {
        panic!()
    };
    assert_eq!((args.id.as_str(), args.rules.len()), ("x", 2));
    for incomplete in [&["agentctl", "allow", "x"], &["agentctl", "deny", "x"]] {
        assert!(Cli::try_parse_from(*incomplete).is_err());
    }
}

#[test]
fn commands_of_exec_are_as_those_of_run() {
    let line = ["agentctl", "exec", "-T", "x", "--cwd", "/", "--", "ls", "--json"];
    let Command::Exec(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
    assert_eq!((args.id.as_str(), args.no_tty, args.command.len()), ("x", true, 2));
    assert!(Cli::try_parse_from(["agentctl", "exec", "x"]).is_err());
}

#[test]
fn kinds_that_do_not_exist_are_wrong_usage() {
    let error = Cli::try_parse_from(["agentctl", "events", "--kind", "net.dennied"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("net.denied"), "{error}");
}

#[test]
fn flags_of_other_versions_are_wrong_usage() {
    for flag in ["--publish", "--ask", "--secret=x", "--memory=x"] {
        let error = Cli::try_parse_from(["agentctl", "run", flag, "true"]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{flag}");
    }
    assert_eq!(Cli::try_parse_from(["agentctl", "run"]).unwrap_err().exit_code(), 2);
}
