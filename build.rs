//! Has the linker put the functions that are used side by side (tools/layout).

#![allow(clippy::disallowed_methods, reason = "Cargo speaks to a build script in the environment")]

use std::env::var;
use std::hash::{DefaultHasher, Hasher};

fn main() {
    println!("cargo:rerun-if-changed=tools/layout.ld");
    println!("cargo:rerun-if-env-changed=HOB_BUILD_LAYOUT");
    // Optimised builds alone, on the target whose linker comes with the compiler.
    let is = |name: &str, value: &str| var(name).as_deref() == Ok(value);
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") && !is("HOB_BUILD_LAYOUT", "no") {
        let script = format!("{}/tools/layout.ld", var("CARGO_MANIFEST_DIR").unwrap_or_default());
        // Under a name that changes with what is in it, or Cargo would not link again.
        let text = std::fs::read(&script).expect("tools/layout.ld is part of the project");
        let mut hasher = DefaultHasher::new();
        hasher.write(&text);
        let copy = format!("{}/layout-{:016x}.ld", var("OUT_DIR").unwrap_or_default(), hasher.finish());
        std::fs::write(&copy, text).expect("the folder for what is built can be written");
        println!("cargo:rustc-link-arg-bin=hob=-Wl,-T,{copy}");
    }
}
