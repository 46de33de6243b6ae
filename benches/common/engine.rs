//! The echo function's image, made without a builder or a registry.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;

pub(crate) const IMAGE: &str = "hob-bench/echo:latest";
/// The program's name inside the image, also what /proc calls the process.
pub(crate) const PROGRAM: &str = "hob-bench-echo";

/// Builds functions/echo and loads it as `IMAGE`.
pub(crate) fn prepare() -> Result<(), Failure> {
    let program = build()?;
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(&program, PROGRAM)?;
    let bytes = archive.into_inner()?;
    let mut import = Command::new("docker")
        .args(["import", "--change", &format!("ENTRYPOINT [\"/{PROGRAM}\"]"), "-", IMAGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("docker import: {e}; the benches need Docker's client and a running engine"))?;
    import.stdin.take().ok_or("docker import: no input")?.write_all(&bytes)?;
    if import.wait()?.success() { Ok(()) } else { Err("docker import failed".into()) }
}

pub(crate) fn build() -> Result<PathBuf, Failure> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("functions");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/echo");
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--quiet"]).current_dir(source).env("CARGO_TARGET_DIR", &target).status()?;
    if !built.success() {
        return Err("functions/echo does not build".into());
    }
    Ok(target.join("release/echo"))
}

/// A kind of container start beside which hob's own is judged.
pub(crate) fn docker(args: &[&str]) -> Result<String, Failure> {
    let output = Command::new("docker").args(args).output()?;
    if !output.status.success() {
        return Err(format!("docker {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
