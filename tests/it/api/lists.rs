//! Pages, cursors, filters (spec http-api §1.6).

use super::{Api, check};

/// Follows the cursors; the names on each page.
fn pages(api: &Api, target: &str) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let got = api.ask("GET", &format!("{target}&cursor={cursor}"), "");
        assert_eq!(got.status, 200, "{got:?}");
        let page = got.json();
        pages.push(page["items"].as_array().expect("a list").iter().map(|i| i["name"].as_str().expect("name").to_owned()).collect());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return pages,
        }
    }
}

#[test]
fn paging() {
    let Some(mut api) = Api::start(&[]) else { return };
    for name in ["a3", "a1", "a2"] {
        api.made(name, "/v2/apps", &format!(r#"{{"name":"{name}"}}"#));
    }
    assert_eq!(pages(&api, "/v2/apps?per_page=2"), [vec!["a1", "a2"], vec!["a3"]], "§11.18");
    assert_eq!(pages(&api, "/v2/apps?per_page=3"), [vec!["a1", "a2", "a3"], vec![]], "§11.19");
    assert_eq!(api.ask("GET", "/v2/apps?per_page=2", "").json()["next_cursor"], "YTI", "§1.6 the cursor is the name");
    let bad = "!Invalid cursor: pass next_cursor of the previous page, or none";
    check(
        &api,
        &[
            ("§11.20 bad cursor", "GET", "/v2/apps?cursor=%25%25", "", 400, bad),
            ("§1.6 padded cursor", "GET", "/v2/apps?cursor=YQ==", "", 400, bad),
            ("§1.6 cursor that is no UTF-8", "GET", "/v2/apps?cursor=_w", "", 400, bad),
            ("§1.6 bad cursor for fns", "GET", "/v2/fns?app_id={a1}&cursor=%25", "", 400, bad),
            ("§1.6 a name is no trigger cursor", "GET", "/v2/triggers?app_id={a1}&cursor=YTI", "", 400, bad),
            ("§1.6 cursor past the end", "GET", "/v2/apps?cursor=eno", "", 200, r#"={"items":[]}"#),
            ("§1.6 cursor and name", "GET", "/v2/apps?name=a1&cursor=YTI", "", 200, r#"={"items":[]}"#),
            ("§1.6 a full page of one", "GET", "/v2/apps?name=a1&per_page=1", "", 200, r#"~{"next_cursor":"YTE","items":["#),
        ],
    );
    for n in 0..120 {
        api.made(&format!("f{n}"), "/v2/fns", &format!(r#"{{"app_id":"{{a1}}","name":"f{n:03}","image":"i"}}"#));
    }
    let shape = |query: &str| pages(&api, &format!("/v2/fns?app_id={{a1}}{query}")).iter().map(Vec::len).collect::<Vec<_>>();
    for (query, want) in [
        ("", vec![30, 30, 30, 30, 0]),
        ("&per_page=abc", vec![30, 30, 30, 30, 0]),
        ("&per_page=0", vec![30, 30, 30, 30, 0]),
        ("&per_page=-1", vec![30, 30, 30, 30, 0]),
        ("&per_page=1000", vec![100, 20]),
        ("&per_page=50", vec![50, 50, 20]),
        ("&per_page=50&per_page=1", vec![50, 50, 20]),
    ] {
        assert_eq!(shape(query), want, "§1.6 {query}");
    }
    let all: Vec<String> = pages(&api, "/v2/fns?app_id={a1}").concat();
    assert_eq!(all, (0..120).map(|n| format!("f{n:03}")).collect::<Vec<_>>(), "§1.6 order");
    for n in 0..3 {
        api.made("T", "/v2/triggers", &format!(r#"{{"app_id":"{{a1}}","fn_id":"{{f{n}}}","name":"same","type":"http","source":"/{n}"}}"#));
    }
    assert_eq!(pages(&api, "/v2/triggers?app_id={a1}&per_page=2"), [vec!["same"; 2], vec!["same"]], "§11.35");
    api.stop();
}
