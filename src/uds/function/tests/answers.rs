//! What a function may say, and what becomes of it.

use super::*;

#[test]
fn answers_that_are_good() {
    delivers("counted", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"");
    delivers("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2;x\r\nng\r\n0\r\nA: b\r\n\r\n", b"pong");
    delivers("chunked and empty", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"");
    delivers("HTTP/1.0 counted", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("no reason", "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("interim ones first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("says close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("another's id where only this was asked", "HTTP/1.1 200 OK\r\nFn-Call-Id: 01HF7YAT3V180G40RZJ0000001\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("answers twice", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npongHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"pong");
    delivers("length too short", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npongevil", b"pong");
    delivers("exactly held", format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(100)), &[b'x'; 100]);
    delivers("streamed by length", format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101)), &[b'x'; 101]);
    delivers("exactly the limit", format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000)), &[b'x'; 1000]);
    delivers(
        "streamed in chunks",
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "28\r\n0123456789012345678901234567890123456789\r\n".repeat(5)),
        "0123456789".repeat(20).as_bytes(),
    );
    expect("until it closes", || says("HTTP/1.0 200 OK\r\n\r\npong"), LONG, Fate::Reuse, |d| d.client.body() == Some(b"pong"));
    expect(
        "until it closes, long",
        || says([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 500]].concat()),
        LONG,
        Fate::Reuse,
        |d| d.client.body() == Some(&[b'x'; 500]) && d.client.begun == Some((vec![], None)),
    );
    // In single bytes.
    let drip = |text: &'static [u8]| {
        act(move |s, _| {
            for byte in text {
                let _ = s.write_all(&[*byte]);
                std::thread::yield_now();
            }
        })
    };
    expect("drip", || drip(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"), LONG, Fate::Reuse, |d| d.client.body() == Some(b"pong"));
    expect(
        "drip in chunks",
        || drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2\r\nng\r\n0\r\n\r\n"),
        LONG,
        Fate::Reuse,
        |d| d.client.body() == Some(b"pong"),
    );
}

#[test]
fn answers_that_are_cut_at_any_byte_are_no_answers() {
    for text in [
        &b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\npong"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2\r\nng\r\n0\r\n\r\n",
    ] {
        for end in 0..text.len() {
            expect("cut", || says(&text[..end]), LONG, Fate::Discard, no_answer_of);
        }
    }
    expect("length too long", || says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong"), LONG, Fate::Discard, no_answer_of);
    expect("chunk longer than sent", || says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npong"), LONG, Fate::Discard, no_answer_of);
    let broken = |d: &Done| matches!(d.result, Err(CallError::Broken { sent: 150, .. })) && !d.client.ended && d.client.data.len() == 150;
    expect("a long one cut", || says([b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec(), vec![b'x'; 150]].concat()), LONG, Fate::Discard, broken);
    expect(
        "long chunks cut",
        || says([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n".to_vec(), vec![b'x'; 150]].concat()),
        LONG,
        Fate::Discard,
        broken,
    );
    expect(
        "long chunks gone bad",
        || says([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n".to_vec(), vec![b'x'; 150], b"evil".to_vec()].concat()),
        LONG,
        Fate::Discard,
        broken,
    );
    expect("an interim one only", || says("HTTP/1.1 100 Continue\r\n\r\n"), LONG, Fate::Discard, no_answer_of);
}

#[test]
fn answers_that_are_malformed() {
    let bad = |name: &str, text: &str| {
        expect(
            name,
            || says_and_waits(text),
            LONG,
            Fate::Discard,
            |d| {
                // The text is ours alone: nothing a function wrote comes through.
                bad_of(d) && !d.result.as_ref().is_err_and(|e| e.to_string().contains("evil"))
            },
        );
    };
    bad("garbage", "evil garbage");
    bad("not HTTP", "EVIL/1.1 200 OK\r\n\r\n");
    bad("HTTP/2", "HTTP/2.0 200 OK\r\nevil: 1\r\n\r\n");
    bad("status no number", "HTTP/1.1 evil OK\r\n\r\n");
    bad("empty lines first", "\r\nHTTP/1.1 200 OK\r\nevil: 1\r\nContent-Length: 0\r\n\r\n");
    bad("LF only", "HTTP/1.1 200 OK\nevil: 1\nContent-Length: 0\n\n");
    bad("LF in a field", "HTTP/1.1 200 OK\r\nA: b\nevil: c\r\nContent-Length: 0\r\n\r\n");
    bad("CR in a value", "HTTP/1.1 200 OK\r\nA: b\revil\r\nContent-Length: 0\r\n\r\n");
    bad("NUL in a value", "HTTP/1.1 200 OK\r\nA: b\0evil\r\nContent-Length: 0\r\n\r\n");
    bad("folded line", "HTTP/1.1 200 OK\r\nA: b\r\n evil\r\nContent-Length: 0\r\n\r\n");
    bad("space before colon", "HTTP/1.1 200 OK\r\nevil : b\r\nContent-Length: 0\r\n\r\n");
    bad("name not a token", "HTTP/1.1 200 OK\r\nev il: b\r\nContent-Length: 0\r\n\r\n");
    bad("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!");
    bad("length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nevil");
    bad("length no number", "HTTP/1.1 200 OK\r\nContent-Length: evil\r\n\r\n");
    bad("length negative", "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil");
    bad("odd coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: evil, chunked\r\n\r\n");
    bad("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    bad("chunk size no number", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzevil\r\n");
    bad("chunk size too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000004\r\nevil");
    bad("no end of chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil!!");
    bad("endless extension", &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;{}", "evil".repeat(100)));
    bad("huge trailers", &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", "evil: x\r\n".repeat(2000)));
    bad("interim flood", &"HTTP/1.1 100 Continue\r\n\r\n".repeat(40));
    bad("129 fields", &format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129)));
    let too_big = |d: &Done| matches!(d.result, Err(CallError::AnswerHeadTooBig { limit: 2048 })) && d.client.calls == 0;
    expect("huge head", || says_and_waits(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(5000))), LONG, Fate::Discard, too_big);
    expect(
        "huge complete head",
        || says_and_waits(format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(2040))),
        LONG,
        Fate::Discard,
        too_big,
    );
    expect("endless status line", || says_and_waits(format!("HTTP/1.1 200 {}", "x".repeat(5000))), LONG, Fate::Discard, too_big);
}

#[test]
fn statuses_of_the_contract() {
    for (status, fate) in [
        (201, Fate::Discard),
        (204, Fate::Discard),
        (301, Fate::Discard),
        (302, Fate::Discard),
        (304, Fate::Discard),
        (400, Fate::Discard),
        (404, Fate::Discard),
        (500, Fate::Discard),
        (503, Fate::Discard),
        (999, Fate::Discard),
        (101, Fate::Discard),
    ] {
        let text = format!("HTTP/1.1 {status} X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n");
        expect(
            "status",
            || says_and_waits(text.as_str()),
            LONG,
            fate,
            |d| matches!(d.result, Err(CallError::InvalidAnswer { status: s }) if s == status) && d.client.calls == 0,
        );
    }
    for (status, name) in [(502, "failed"), (504, "timeout")] {
        let check = move |d: &Done| {
            d.client.calls == 0
                && if status == 502 { matches!(d.result, Err(CallError::FunctionFailed)) } else { matches!(d.result, Err(CallError::FunctionTimeout)) }
        };
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nevil");
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Reuse, check);
        let text = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n");
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Reuse, check);
        let text = [format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes(), vec![b'x'; 3 << 20]].concat();
        expect(name, || says_and_waits(text.as_slice()), LONG, Fate::Reuse, check);
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nevil");
        expect(name, || says(text.as_str()), LONG, Fate::Discard, check);
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Discard, check);
    }
}

#[test]
fn bodies_over_the_limit() {
    let too_big = |d: &Done| matches!(d.result, Err(CallError::AnswerTooBig { limit: 1000 })) && d.client.calls == 0;
    expect(
        "by length",
        || says_and_waits([b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_vec(), vec![b'x'; 1001]].concat()),
        LONG,
        Fate::Reuse,
        too_big,
    );
    expect("by a huge length", || says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nx"), LONG, Fate::Reuse, too_big);
    let broken = |d: &Done| matches!(d.result, Err(CallError::Broken { .. })) && !d.client.ended && d.client.data.len() <= 1000;
    expect(
        "by chunks",
        || {
            says_and_waits(
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n".to_vec(), vec![b'x'; 512], b"\r\n200\r\n".to_vec(), vec![b'x'; 512]].concat(),
            )
        },
        LONG,
        Fate::Reuse,
        broken,
    );
    expect("by not ending", || act(|s, _| while s.write_all(&[b'x'; 100]).is_ok() {}), LONG, Fate::Discard, bad_of);
    // When all of it would be held, nothing has been sent yet: a clean error.
    let function = function([says_and_waits([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 60]].concat())], false);
    let mut socket = function.open();
    let stop = Stop::new().expect("eventfd");
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 50, ..LIMITS }, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::AnswerTooBig { limit: 50 })) && done.client.calls == 0, "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "held over the limit");
    assert_eq!(done.fate, Fate::Reuse);
    // No limit.
    let function = self::function([says([b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n".to_vec(), vec![b'x'; 3_000_000]].concat())], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(done.result.is_ok() && done.client.data.len() == 3_000_000 && done.client.begun == Some((vec![], Some(3_000_000))));
    next_is_own(&function, &mut socket, done.fate, "unlimited");
}

#[test]
fn too_late_is_a_timeout() {
    let late = |d: &Done| matches!(d.result, Err(CallError::Timeout { limit: SHORT })) && d.client.calls == 0;
    expect("never answers", || says_and_waits(""), SHORT, Fate::Discard, late);
    expect("half a head", || says_and_waits("HTTP/1.1 200 OK\r\nContent-"), SHORT, Fate::Discard, late);
    expect("half a body", || says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npo"), SHORT, Fate::Discard, late);
    expect("half the chunks", || says_and_waits("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n"), SHORT, Fate::Discard, late);
    expect("an interim one only", || says_and_waits("HTTP/1.1 100 Continue\r\n\r\n"), SHORT, Fate::Discard, late);
    let drip = |text: &'static str| {
        act(move |s, _| {
            let _ = s.write_all(text.as_bytes());
            let tick = Stop::new().expect("eventfd");
            while s.write_all(b"x").is_ok() {
                crate::uds::net::pause(Some(&tick), Duration::from_millis(3));
            }
        })
    };
    expect("head drips for ever", || drip("HTTP/1.1 200 OK\r\nA: "), SHORT, Fate::Discard, late);
    expect("body drips for ever", || drip("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"), SHORT, Fate::Discard, late);
    expect(
        "a long one drips",
        || drip("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"),
        SHORT,
        Fate::Discard,
        |d| matches!(d.result, Err(CallError::Broken { .. })) && !d.client.ended,
    );
    expect(
        "answers after the deadline",
        || {
            act(|s, asked| {
                until_closed(s);
                good(s, asked, false);
            })
        },
        SHORT,
        Fate::Discard,
        late,
    );
}

#[test]
fn the_answers_fields_are_filtered() {
    let text = "HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: X-Secret , keep-alive\r\nx-secret: s\r\nKeep-Alive: 5\r\nTE: x\r\nTrailer: x\r\nUpgrade: x\r\nProxy-Connection: x\r\nProxy-Authenticate: x\r\nProxy-Authorization: x\r\nFn-Call-Id: evil\r\nfn-call-id: evil\r\nSet-Cookie: a=1\r\nx-a: 2\r\nSet-Cookie: b=2\r\nX-Raw: \u{e4}\r\nX-Empty:\r\nContent-Length: 4\r\n\r\npong";
    let wanted: Fields = [("X-A", "1"), ("Set-Cookie", "a=1"), ("x-a", "2"), ("Set-Cookie", "b=2"), ("X-Raw", "\u{e4}"), ("X-Empty", "")]
        .map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec()))
        .into();
    expect("filter", || says_and_waits(text), LONG, Fate::Reuse, |d| d.client.whole == Some((wanted.clone(), b"pong".to_vec())));
    let chunked = text.replace("Content-Length: 4\r\n\r\npong", &format!("Transfer-Encoding: chunked\r\n\r\nc8\r\n{}\r\n0\r\n\r\n", "x".repeat(200)));
    expect("filter, streamed", || says_and_waits(chunked.as_str()), LONG, Fate::Reuse, |d| d.client.begun == Some((wanted.clone(), None)) && d.client.ended);
}
