//! HTTP/1.1 as bytes: heads, framing, chunks, field rules (RFC 9112, strict).
//!
//! Owns: the one reading of a message head that `edge` (clients) and `uds`
//! (functions, engine) share. Called by: both. Blocks on: nothing; it sees
//! only slices. Does not: read sockets, know limits' settings or routes.
//!
//! `httparse` finds the parts; the checks on top refuse what it lets pass and
//! two readers could understand differently: lines that end in LF alone, bytes
//! before the first line, more than one body length, odd transfer codings.

mod chunked;
pub mod fields;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
#[cfg(test)]
mod tests;

pub use chunked::{ChunkError, ChunkedDecoder, Decoded, chunk_head};
pub use fields::{Field, is_hop_by_hop};
pub use framing::{BodyFraming, keep_alive, request_framing, response_framing};
pub use head::{HeadError, MAX_FIELDS, RequestHead, ResponseHead, parse_request, parse_response};

/// The standard phrase of a status code, `""` where there is none.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}
