//! `/t/:app/*source`: the request as the function's gateway event (spec
//! http-api §3.2, the columns of §3.1).

use super::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    said_by_the_gateway(&mut cases);
    prefixed(&mut cases);
    left_out(&mut cases);
    bodies(&mut cases);
    cases
}

fn get(rule: &'static str, name: impl Into<String>, fields: &str) -> Case {
    case(rule, name, "GET /t/app/f", fields, "")
}

fn said_by_the_gateway(cases: &mut Vec<Case>) {
    cases.push(get("§3.2", "what it is", "").sees("Fn-Intent: httprequest").sees("Fn-Http-Method: GET").sees("Fn-Http-Request-Url: http://h:1/t/app/f"));
    for target in [
        "/t/app/f?x=1",
        "/t/app/f?",
        "/t/app/f?a=b&a=c&&=",
        "/t/app/f?q=a%20b+c",
        "/t/app/f?%zz",
        "/t/app/f?x=%00%ff",
        "/t/app/f?x=/../y?z",
        "/t/app/f?a[]={b}|c",
        "/t/app/%66",
        "/t/%61pp/f?x",
        "/t/app%2Ff",
    ] {
        let url = format!("Fn-Http-Request-Url: http://h:1{target}");
        cases.push(case("§3.2", format!("the URL as it was written: {target}"), &format!("GET {target}"), "", "").sees(url));
    }
    for url in ["http://other.t/t/app/f?x", "https://other.t:9/t/app/f", "HTTP://OTHER.t/t/app/f"] {
        cases.push(case("§3.2", format!("a whole URL as it was written: {url}"), &format!("GET {url}"), "", "").sees(format!("Fn-Http-Request-Url: {url}")));
    }
}

fn prefixed(cases: &mut Vec<Case>) {
    for line in [
        "User-Agent: ua/1",
        "Accept: */*",
        "Accept-Encoding: gzip, br",
        "Authorization: Bearer z",
        "Cookie: a=1; b=2",
        "X-Forwarded-For: 1.2.3.4",
        "X-Empty: ",
        "Origin: http://elsewhere.t",
        "If-None-Match: \"x\"",
        "Te: trailers",
        "Fn-Invoke-Type: sync",
        "Fn-Http-Status: 500",
        "Fn-Http-H-Foo: bar",
        "Fn-Whatever: 1",
    ] {
        let case = get("§3.1", format!("prefixed: {line}"), &format!("{line}¶"));
        cases.push(case.sees(format!("Fn-Http-H-{line}")).unseen(format!("\r\n{line}\r\n")));
    }
    cases.push(get("§3.1", "every value, in order", "X-Many: b¶x-many: a¶").sees("~Fn-Http-H-X-Many: b\r\nFn-Http-H-X-Many: a\r\n"));
    cases.push(get("§3.7", "canonical capitals", "x-cUSTOM: 1¶").sees("Fn-Http-H-X-Custom: 1"));
    cases.push(get("§3.1", "the type is not prefixed", "content-type: text/x¶").sees("Content-Type: text/x").unseen("Fn-Http-H-Content-Type"));
    cases.push(get("§3.1", "nothing is put in", "").unseen("User-Agent").unseen("Accept").unseen("Content-Type"));
}

/// What ends here, and what only the gateway says.
fn left_out(cases: &mut Vec<Case>) {
    for line in [
        "Connection: keep-alive",
        "Proxy-Connection: x",
        "Keep-Alive: 5",
        "Proxy-Authenticate: x",
        "Proxy-Authorization: x",
        "TE: gzip",
        "Trailer: X",
        "Upgrade: h2c",
    ] {
        let name = line.split(':').next().expect("a name");
        cases.push(
            get("§3.1", format!("hop-by-hop: {name}"), &format!("{line}¶X-Stays: 1¶"))
                .unseen(format!("H-{name}:"))
                .unseen("H-Te:")
                .sees("Fn-Http-H-X-Stays: 1"),
        );
    }
    cases.push(get("9110 §7.6.1", "named by Connection", "Connection: x-gone, close¶X-Gone: 1¶").unseen("X-Gone"));
    cases.push(get("§3.1", "the Host is in the URL", "X-Stays: 1¶").unseen("H-Host"));
    for name in ["Fn-Intent", "Fn-Call-Id", "Fn-Deadline", "Fn-Http-Method", "Fn-Http-Request-Url", "FN-INTENT", "fn-http-method"] {
        let case = get("hob", format!("only the gateway says {name}"), &format!("{name}: forged¶X-Stays: 1¶"));
        cases.push(case.unseen("forged").sees("Fn-Intent: httprequest").sees("Fn-Http-Method: GET").sees("Fn-Http-H-X-Stays: 1"));
    }
}

fn bodies(cases: &mut Vec<Case>) {
    cases.push(get("§3.1", "an empty body", "").sees("Fn-Http-H-Content-Length: 0").sees("Content-Length: 0"));
    cases.push(case("§3.1", "a body, by any method", "DELETE /t/app/f", "", "in").sees("Fn-Http-H-Content-Length: 2").sees("~\r\n\r\nin"));
    let chunked = case("§3.1", "chunks", "PUT /t/app/f", "Transfer-Encoding: chunked¶", "2\r\nin\r\n0\r\nX-Trail: 1\r\n\r\n");
    cases.push(chunked.sees("Content-Length: 2").sees("~\r\n\r\nin").unseen("Trail").unseen("H-Transfer"));
    cases.push(
        case("§3.4", "one byte too long", "POST /t/app/f", "", "a".repeat(5001))
            .status(413)
            .answer("Content-Length too large for this server, 5001 > max 5000"),
    );
    cases
        .push(case("§3.3", "detached: the client's own field asks for it here too", "POST /t/app/f", "Fn-Invoke-Type: detached¶", "in").status(202).answer(""));
    cases.push(case("§3.2", "not detached: other letters", "POST /t/app/f", "Fn-Invoke-Type: DETACHED¶", "in").sees("Fn-Http-H-Fn-Invoke-Type: DETACHED"));
}
