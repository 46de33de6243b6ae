//! What is done to the socket, its name and its folder after the start.

use super::{Case, bare, case, step};

/// `trap` is a socket on the host that nobody may ever be led to.
pub(crate) fn cases(trap: &str) -> Vec<Case> {
    let rule = "contract: a plain name in the folder, held by descriptor";
    let whole = &["200 last"];
    let to = |target: &str| step(&format!("link:{target}"));
    vec![
        case("its name gone", rule, ["unlink".into(), bare("last")], whole).spoils(),
        case("its name gone, the connection too", rule, ["unlink".into(), bare("last"), "close".into()], whole).spoils(),
        case("a file under its name", rule, ["file".into(), bare("last")], whole).spoils(),
        case("a folder under its name", rule, ["mkdir".into(), bare("last")], whole).spoils(),
        case("a pipe under its name", rule, ["fifo".into(), bare("last")], whole).spoils(),
        case("a link to a host's socket", rule, [to(trap), bare("last")], whole).spoils(),
        case("a link to a host's socket, and deaf", rule, [to(trap), "deaf".into(), bare("last")], whole).spoils(),
        case("a link upwards, and deaf", rule, [to(&format!("../../../../../../../..{trap}")), "deaf".into(), bare("last")], whole).spoils(),
        case("a link to nothing, and deaf", rule, [to("nothing"), "deaf".into(), bare("last")], whole).spoils(),
        case("a link to itself, and deaf", rule, [to("lsnr.sock"), "deaf".into(), bare("last")], whole).spoils(),
        case("a link to the folder, and deaf", rule, [to("."), "deaf".into(), bare("last")], whole).spoils(),
        case("a link to a device, and deaf", rule, [to("/dev/null"), "deaf".into(), bare("last")], whole).spoils(),
        case("a file, and deaf", rule, ["file".into(), "deaf".into(), bare("last")], whole).spoils(),
        case("deaf", rule, ["deaf".into(), bare("last")], whole).spoils(),
        case("deaf and dead connections", rule, ["deaf".into(), bare("last"), "close".into()], whole).spoils(),
        case("a new socket under the name", "contract: a socket that went is looked for once more", ["rebind".into(), bare("last")], whole).stays(),
        case(
            "a new socket for each call",
            "contract: a socket that went is looked for once more",
            ["rebind".into(), "rebind".into(), "rebind".into(), bare("last")],
            whole,
        )
        .stays(),
        case("a new socket before a broken answer", rule, ["rebind".into(), "close".into()], &["502 closed the connection"]),
        case("the name swapped in a loop", rule, [step(&format!("swaps:{trap}")), bare("last")], whole).either(),
        case("swapped in a loop, and new sockets", rule, [step(&format!("swaps:{trap}")), "rebind".into(), bare("last")], whole).spoils(),
        case("swapped in a loop, and deaf", rule, [step(&format!("swaps:{trap}")), "deaf".into(), bare("last")], whole).spoils(),
        case("a backlog of none", "contract: a full backlog is waited for", [step("backlog:0"), bare("last")], whole).stays(),
        case("connections closed at once", rule, ["accept-and-close".into(), bare("last")], whole).spoils(),
        case("a folder closed to all", rule, [step("chmod:0"), bare("last")], whole).spoils(),
        case("a folder emptied", rule, ["rmdir".into(), bare("last")], whole).spoils(),
        case(
            "files without number in the folder",
            "contract: what is left is removed",
            [step("files:/tmp/iofs,5000"), bare("last")],
            &["200 last", "504 Timed out"],
        )
        .spoils(),
        case(
            "folders in folders in the folder",
            "contract: what is left is removed",
            [step("deep:/tmp/iofs,500"), bare("last")],
            &["200 last", "504 Timed out"],
        )
        .spoils(),
    ]
}
