//! The function's side: its answer's head, its fields, its chunks.

#[path = "../../../src/uds/function/deadline.rs"]
mod deadline;
#[path = "../../../src/uds/function/filter.rs"]
mod filter;

use std::hint::black_box;

use crate::http1::{ChunkedDecoder, chunk_head, parse_response, response_framing};
use crate::model::{Id, Timestamp};

pub(super) struct State {
    answer: Vec<u8>,
    chunked: Vec<u8>,
    id: Id,
    out: Vec<u8>,
}

impl Default for State {
    fn default() -> State {
        let id: Id = "01HF7YAT3V180G40RZJ0000001".parse().expect("an id");
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\nFn-Call-Id: {id}\r\nX-Instance: 1f3a\r\n\r\n{}", "x".repeat(64));
        let mut chunked = Vec::new();
        for _ in 0..64 {
            chunk_head(1024, &mut chunked);
            chunked.extend_from_slice(&[b'x'; 1024]);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        State { answer: answer.into_bytes(), chunked, id, out: Vec::new() }
    }
}

impl State {
    /// A small answer is read, judged and its fields filtered.
    pub(super) fn function_answer(&mut self) {
        let head = parse_response(black_box(&self.answer), 64 * 1024).expect("sound").expect("whole");
        black_box(response_framing(&head, false).expect("sound"));
        assert!(filter::bears_id(&head, &self.id));
        black_box(filter::for_client(&head));
    }

    /// 64 KiB in chunks of 1 KiB are decoded.
    pub(super) fn chunks(&mut self) {
        let mut decoder = ChunkedDecoder::new();
        let mut rest: &[u8] = black_box(&self.chunked);
        while !decoder.is_done() {
            let step = decoder.decode(rest).expect("sound");
            black_box(step.data);
            rest = &rest[step.consumed..];
        }
    }

    /// The deadline as functions read it.
    pub(super) fn deadline(&mut self) {
        self.out.clear();
        deadline::push_rfc3339(black_box(Timestamp(1_795_488_073_999)), &mut self.out);
        black_box(&self.out);
    }
}
