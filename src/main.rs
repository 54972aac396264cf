//! The command line of Brazier.

fn main() -> std::process::ExitCode {
    brazier::cli::main()
}
