//! Which fields of a function's answer go on to the client.

use crate::http1::{Field, ResponseHead, fields, is_hop_by_hop};
use crate::model::Id;

/// The fields the client may see, in the function's order, duplicates kept.
/// Not those of the function's connection (hop-by-hop, named by `Connection`,
/// framing) and never its `Fn-Call-Id`: that one is the server's to say.
pub(super) fn for_client<'b>(head: &ResponseHead<'b>) -> Vec<(&'b str, &'b [u8])> {
    let all = &head.fields;
    let has_options = fields::count(all, "connection") > 0;
    let named = |field: &Field<'_>| has_options && fields::connection_options(all).any(|o| o.eq_ignore_ascii_case(field.name.as_bytes()));
    let mut out = Vec::with_capacity(all.len());
    for field in all {
        let ours = field.name.eq_ignore_ascii_case("content-length") || field.name.eq_ignore_ascii_case("fn-call-id");
        // The parser proved both already; what leaves is checked where it leaves.
        let clean = fields::is_token(field.name.as_bytes()) && fields::is_value(field.value);
        if !ours && clean && !is_hop_by_hop(field.name) && !named(field) {
            out.push((field.name, field.value));
        }
    }
    out
}

/// Whether the answer says, once and exactly, that it is this call's.
pub(super) fn bears_id(head: &ResponseHead<'_>, id: &Id) -> bool {
    let mut ids = head.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("fn-call-id"));
    ids.next().is_some_and(|f| f.value == id.as_str().as_bytes()) && ids.next().is_none()
}
