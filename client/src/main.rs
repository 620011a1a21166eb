//! `agentctl`, the client of agentd: it asks for sessions, carries their terminal and shows their events,
//! with nothing but its user's own rights.

mod ask;
mod attach;
mod breadth;
mod canary;
mod carry;
mod check;
mod cli;
mod completion;
mod connect;
mod doctor;
mod events;
mod exec;
mod failure;
mod find;
mod gitdirs;
mod habits;
mod inspect;
mod keys;
mod logs;
mod manpages;
mod offer;
mod pipes;
mod profile;
mod progress;
mod quantity;
mod review;
mod run;
mod sessions;
mod several;
mod show;
mod side;
mod signals;
mod site_profiles;
mod spec;
mod steps;
mod stream;
mod terminal;
mod text;

use std::io::Write as _;
use std::time::Instant;

use clap::Parser;

use crate::cli::{Cli, Command, ProfileCommand};
use crate::connect::Socket;
use crate::failure::Failure;

fn main() {
    let started = Instant::now();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Help on standard output, errors on standard error; a reader that is gone needs neither.
        if error.exit_code() == 0 {
            error.print().ok();
        } else {
            // It quotes what was typed, which may steer a terminal.
            write!(std::io::stderr(), "{}", show::clean_lines(&error.render().to_string())).ok();
            if let Some(hint) = habits::hint(&error) {
                failure::say(hint);
            }
        }
        std::process::exit(match error.exit_code() {
            0 => 0,
            // Each code of these but this one is the command's own.
            _ if asks_to_run(std::env::args_os().skip(1)) => failure::RUN_FAILED,
            code => code,
        })
    });
    let is_run = matches!(cli.command, Command::Run(_) | Command::Attach(_) | Command::Exec(_));
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(dispatch(cli, started)),
        Err(error) => Err(Failure::failed(format!("cannot start: {error}"))),
    };
    let code = outcome.unwrap_or_else(|failure| {
        failure.print();
        if is_run { failure.run_code() } else { failure.code() }
    });
    // Threads that still wait for standard input must not hold the exit.
    std::process::exit(code);
}

/// Whether a command line that could not be read was one of `run`, `attach` or `exec`.
fn asks_to_run(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--socket") => drop(args.next()),
            Some(option) if option.starts_with('-') => {}
            word => return matches!(word, Some("run" | "attach" | "exec")),
        }
    }
    false
}

async fn dispatch(cli: Cli, started: Instant) -> Result<i32, Failure> {
    let socket = Socket::choose(cli.socket);
    match cli.command {
        Command::Run(args) => return run::run(&socket, *args, started).await,
        Command::Attach(args) => return exec::attach(&socket, args).await,
        Command::Exec(args) => return exec::exec(&socket, *args).await,
        Command::Doctor(args) => return doctor::doctor(&socket, args).await,
        Command::Ps(args) => sessions::ps(&socket, args).await,
        Command::Inspect(args) => inspect::inspect(&socket, args).await,
        Command::Logs(args) => logs::logs(&socket, args).await,
        Command::Stop(args) => sessions::stop(&socket, args).await,
        Command::Kill(args) => sessions::kill(&socket, args).await,
        Command::Diff(args) => review::diff(&socket, args).await,
        Command::Apply(args) => review::apply(&socket, *args).await,
        Command::Discard(args) => review::discard(&socket, args).await,
        Command::Rm(args) => sessions::rm(&socket, args).await,
        Command::Allow(args) => sessions::allow(&socket, args).await,
        Command::Deny(args) => sessions::deny(&socket, args).await,
        Command::Events(args) => events::events(&socket, args).await,
        Command::Version(args) => sessions::version(&socket, args).await,
        Command::Profile(args) => match args.command {
            ProfileCommand::Check(args) => profile::check(&socket, args),
            ProfileCommand::Show(args) => profile::show(&socket, args),
        },
        Command::Completion(args) => completion::completion(args.shell),
        Command::Words(args) => completion::words(&socket, args.kind).await,
        Command::Manpages(args) => manpages::write(&args.dir)
            .map_err(|error| Failure::failed(format!("{}: {error}", args.dir.display()))),
    }?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::asks_to_run;

    fn asks(line: &[&str]) -> bool {
        asks_to_run(line.iter().map(std::ffi::OsString::from))
    }

    #[test]
    fn codes_of_commands_are_kept_apart() {
        for line in [&["run", "--odd"][..], &["--socket", "run", "attach"], &["--socket=x", "exec"]] {
            assert!(asks(line), "{line:?}");
        }
        for line in [&["ps", "run"][..], &["--socket", "run"], &[], &["kill", "exec"]] {
            assert!(!asks(line), "{line:?}");
        }
    }
}
