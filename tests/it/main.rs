//! The whole server, from outside: every scenario starts the program, speaks
//! HTTP to it and looks at what the container engine has. One module per
//! scenario; `harness` starts and stops, `tidy` reads the sources.
//!
//! Where no engine answers, tests that need one print `SKIPPED: no engine`
//! and pass, except with `CI=true`, where they fail.

#![allow(clippy::disallowed_methods, reason = "tests poll for conditions, start threads and read the environment")]
#![allow(clippy::print_stdout, reason = "what was measured and what was skipped is printed")]

mod harness;

mod api;
mod asleep;
mod call_logs;
mod callbacks;
mod clients;
mod containers;
mod crowd;
mod doctor;
mod durability;
mod environment;
mod escape;
mod exposure;
#[cfg(debug_assertions)]
mod fault_points;
mod faults;
mod fn_tool;
mod functions;
mod gateway;
mod hostile;
mod images;
mod instances;
mod kept;
mod launch;
mod limits;
mod load;
mod logs;
mod main_job;
mod no_engine;
mod oci;
mod parked;
mod probes;
mod process;
mod programs;
mod python;
mod receipts;
mod rootless;
mod rounds;
mod settings;
mod shutdown;
mod sockets;
mod syslog;
mod tidy;
mod usage;
mod wire;
