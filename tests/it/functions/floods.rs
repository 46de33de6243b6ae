//! Output without measure or manners.

use std::time::Duration;

use serde_json::json;

use super::{Case, bare, case, step};
use crate::harness::Server;

pub(crate) fn cases() -> Vec<Case> {
    let rule = "contract: output never holds a function up";
    let told = &["200 told"];
    let print = |target: &str, text: &str| step(&format!("print:{target},{text}"));
    vec![
        case("half a line", rule, [print("out", "half a line"), bare("told")], told),
        case("half a line, and the rest later", rule, [print("out", "half "), bare("told"), "aside".into(), super::wait(20), print("out", "a line\n")], told),
        case("control characters", rule, [print("both", "\u{1b}[2J\u{0}\r\u{7f}\u{8}\n"), bare("told")], told),
        case("no text", rule, [step("flood:both,1000000,\u{0}\u{ff}\u{fe}\u{80}\u{c3}(\u{f0}\u{9f}"), bare("told")], told),
        case("a line of 3 MB", rule, [step("flood:out,3000000,x"), bare("told")], told),
        case("a million empty lines", rule, [step("flood:out,1000000,\n"), bare("told")], told),
        case(
            "what looks like the log",
            rule,
            [print("err", "2026-11-24T00:00:00Z ERROR hob: panick\u{0}ed\nserving on http://0.0.0.0:1\n"), bare("told")],
            told,
        ),
        case("20 MB on both", rule, [step("flood:both,10000000,evil and more of it\n"), bare("told")], told),
        case("without end, beside the next calls", rule, [bare("told"), "aside".into(), step("flood:both,100000000000,evil and more of it\n")], told).spoils(),
        case("closed", rule, ["close-output".into(), print("both", "nobody hears"), bare("told")], told).spoils(),
        case("after its answer", rule, [bare("told"), print("both", "late\n")], told),
    ]
}

/// Resident bytes of the server.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// What a flood may cost beyond the ring that the first call filled. Without a
/// bound it would be `FLOOD`; what threads have that the scheduler makes to wait
/// is resident too.
const GROWTH: u64 = FLOOD / 5;
const FLOOD: u64 = 100_000_000;

#[test]
fn a_flood_of_output_costs_a_bounded_ring() {
    // As it runs by default: at level debug lines would be copied into the log.
    let Some(server) = Server::start(&[("FN_LOG_LEVEL", "info")]) else { return };
    let hostile = server.function("hostile", "hostile", json!({"timeout": 120, "annotations": {"hob/max-instances": 1}}));
    let flood = |bytes: u64| {
        let script = [step(&format!("flood:out,{bytes},printed by a function that does not know when to stop\n")), bare("told")].join(";");
        assert_eq!(server.good_call(&hostile, &[("X-Script", &script)], b"").text(), "told");
    };
    // The ring of a call, and of the one before it, is full from here on.
    (0..3).for_each(|_| flood(4_000_000));
    let before = resident(&server);
    let most = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(FLOOD));
        let mut most = before;
        while !flooding.is_finished() {
            most = most.max(resident(&server));
            std::thread::sleep(Duration::from_millis(5));
        }
        flooding.join().expect("the flood");
        most
    });
    println!("100 MB of output: {} KiB resident before, at most {} KiB more", before >> 10, most.saturating_sub(before) >> 10);
    assert!(most <= before + GROWTH, "{before} bytes resident before the flood, {most} in it");
    server.stop();
}
