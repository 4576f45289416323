//! Runs every target for a while: see `README.md`.

fn main() -> std::process::ExitCode {
    fuzz::run::main(&fuzz::TARGETS)
}
