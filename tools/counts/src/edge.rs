//! The client's side: the request's head, its way, the answer's head.

#[path = "../../../src/edge/fields.rs"]
mod fields;
#[path = "../../../src/edge/reply.rs"]
mod reply;
#[path = "../../../src/edge/route.rs"]
mod route;
mod sock;

use std::hint::black_box;
use std::time::Duration;

use crate::http1::{keep_alive, parse_request, request_framing};
use crate::model::Id;
use crate::pool::Stop;
use reply::{DateCache, Reply};
use sock::Sock;

const REQUEST: &[u8] = b"POST /invoke/01HF7YAT3V180G40RZJ0000001 HTTP/1.1\r\n\
Host: functions.example.com:8080\r\n\
User-Agent: curl/8.14.1\r\n\
Accept: */*\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Content-Type: application/json\r\n\
X-Request-Id: 7d3c0a52-4f3e-4d59-9f39-1f3a2b6c7d8e\r\n\
Connection: keep-alive\r\n\
Content-Length: 64\r\n\r\n";

#[derive(Default)]
pub(super) struct State {
    out: Vec<u8>,
    date: DateCache,
    sock: Sock,
    stop: Stop,
}

impl State {
    pub(super) fn request_head(&mut self) {
        let head = parse_request(black_box(REQUEST), 64 * 1024).expect("sound").expect("whole");
        black_box(request_framing(&head).expect("sound"));
        black_box(keep_alive(head.minor, &head.fields));
        black_box(&head);
    }

    pub(super) fn route(&mut self) {
        let target = route::Target::parse(black_box("/invoke/01HF7YAT3V180G40RZJ0000001")).expect("a path");
        let path = route::decode(target.path).expect("sound");
        let route::Route::Invoke(id) = route::route(black_box("POST"), path) else { panic!("a call") };
        black_box(id.parse::<Id>().expect("an id"));
    }

    pub(super) fn call_fields(&mut self) {
        let head = parse_request(black_box(REQUEST), 64 * 1024).expect("sound").expect("whole");
        let mut out = Vec::with_capacity(head.len);
        fields::invoke_fields(&head.fields, &mut out);
        black_box(out);
    }

    pub(super) fn call_id(&mut self) {
        black_box(Id::new());
    }

    /// The head of an answer, with two fields of the function's.
    pub(super) fn answer(&mut self) {
        let mut reply = Reply {
            sock: &self.sock,
            stop: &self.stop,
            out: &mut self.out,
            date: &mut self.date,
            patience: Duration::from_secs(30),
            minor: 1,
            head_only: false,
            keep: true,
            origin: None,
        };
        reply.status(black_box(200));
        reply.field("Content-Type", black_box(b"text/plain"));
        reply.field("X-Instance", black_box(b"1f3a"));
        reply.call_id(&Id::MIN);
        reply.own_fields(false, false);
        let left = reply.finish_at_once(200, black_box(&[b'x'; 64])).expect("nobody leaves");
        assert!(left.is_empty());
    }
}
