//! Functions that take all they can get. Their calls may fail, at their own
//! limit; nobody else's may.

use super::{Case, bare, case, step};

pub(crate) fn cases() -> Vec<Case> {
    let rule = "contract: limits of the container";
    let any = &["200 still", "502 ", "504 "];
    vec![
        case("memory", rule, ["eat".into(), bare("evil")], &["502 memory"]).goes(),
        case("processes", rule, ["forks".into(), bare("still")], any).spoils(),
        case("threads", rule, ["threads".into(), bare("still")], any).spoils(),
        case("descriptors", rule, ["fds".into(), bare("still")], any).spoils(),
        case("the processor", rule, [step("spin:4"), bare("still")], any).spoils(),
        case("files in /tmp", rule, [step("files:/tmp,50000"), bare("still")], any).spoils(),
        case("all of /tmp", rule, [step("fill:/tmp,1000000000"), bare("still")], any).spoils(),
        case("folders in folders in /tmp", rule, [step("deep:/tmp,500"), bare("still")], any).spoils(),
        case("its root", rule, [step("fill:/,100000000"), step("files:/,1000"), bare("still")], any).spoils(),
        case("processes and the processor", rule, [step("spin:4"), "forks".into(), bare("still")], any).spoils(),
        case("memory while it prints", rule, ["aside".into(), step("flood:both,100000000,evil"), "eat".into()], any).spoils(),
    ]
}
