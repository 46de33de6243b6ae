//! Has the linker put the functions that are used side by side (tools/layout).

#![allow(clippy::disallowed_methods, reason = "Cargo speaks to a build script in the environment")]

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=tools/layout.ld");
    println!("cargo:rerun-if-env-changed=HOB_BUILD_LAYOUT");
    // Optimised builds alone, on the target whose linker comes with the compiler.
    let is = |name: &str, value: &str| var(name).as_deref() == Ok(value);
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") && !is("HOB_BUILD_LAYOUT", "no") {
        let script = format!("{}/tools/layout.ld", var("CARGO_MANIFEST_DIR").unwrap_or_default());
        println!("cargo:rustc-link-arg-bin=hob=-Wl,-T,{script}");
    }
}
