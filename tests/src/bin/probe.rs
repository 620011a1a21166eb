//! Runs inside a session and tries one hostile act. See `agentd_tests::probe`.

fn main() -> std::process::ExitCode {
    agentd_tests::probe::main()
}
