//! Exit codes and signals; everything else is in the library.

fn main() -> std::process::ExitCode {
    hob::cli::main()
}
