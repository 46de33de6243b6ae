//! Stands in for errors' answers, which a good call has none of.

use std::borrow::Cow;

pub struct Answer {
    pub status: u16,
    pub message: Cow<'static, str>,
    pub retry_after_s: Option<u32>,
}

impl Answer {
    pub fn json(&self) -> String {
        self.message.clone().into_owned()
    }
}
