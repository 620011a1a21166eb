//! `agentctl`, the client of agentd: it asks for sessions, carries their terminal and shows their events,
//! with nothing but its user's own rights.

mod attach;
mod cli;
mod connect;
mod events;
mod failure;
mod filter;
mod offer;
mod pipes;
mod profile;
mod quantity;
mod run;
mod sessions;
mod show;
mod signals;
mod terminal;

use std::time::Instant;

use clap::Parser;

use crate::cli::{Cli, Command, ProfileCommand};
use crate::connect::Socket;
use crate::failure::Failure;

fn main() {
    let started = Instant::now();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Help on standard output, errors on standard error; a reader that is gone needs neither.
        let _ = error.print();
        std::process::exit(match error.exit_code() {
            0 => 0,
            // Each code of `run` but this one is the command's own.
            _ if asks_to_run(std::env::args_os().skip(1)) => failure::RUN_FAILED,
            code => code,
        })
    });
    let is_run = matches!(cli.command, Command::Run(_));
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

/// Whether a command line that could not be read was one of `run`.
fn asks_to_run(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--socket") => drop(args.next()),
            Some(option) if option.starts_with('-') => {}
            word => return word == Some("run"),
        }
    }
    false
}

async fn dispatch(cli: Cli, started: Instant) -> Result<i32, Failure> {
    let socket = Socket::choose(cli.socket);
    match cli.command {
        Command::Run(args) => return run::run(&socket, *args, started).await,
        Command::Ps(args) => sessions::ps(&socket, args).await,
        Command::Kill(args) => sessions::kill(&socket, args).await,
        Command::Rm(args) => sessions::rm(&socket, args).await,
        Command::Events(args) => events::events(&socket, args).await,
        Command::Version(args) => sessions::version(&socket, args).await,
        Command::Profile(args) => match args.command {
            ProfileCommand::Check(args) => profile::check(&socket, args).await,
            ProfileCommand::Show(args) => profile::show(&socket, args).await,
        },
    }?;
    Ok(0)
}
