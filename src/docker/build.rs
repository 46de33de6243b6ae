//! Images made for the command line: a Dockerfile built by the engine, and
//! what a name stands for now.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;

use super::containers::passing;
use super::engine::{Ask, EngineError, Op};
use super::images::Images;
use super::pull::{progress, words};
use crate::registry::encode;

/// A step of a Dockerfile may say nothing for so long (a compiler, a download).
const STEP_SILENCE: Duration = Duration::from_secs(1800);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Identified {
    id: String,
}

impl Images {
    /// Builds the Dockerfile at the root of `context` (a tar archive) and names
    /// the image `tag`. Each line of the engine's output goes to `said`.
    ///
    /// # Errors
    /// A step failed, or the engine did.
    pub fn build(&self, context: &mut dyn Read, tag: &str, said: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
        let target = format!("/build?t={}&rm=1&forcerm=1", encode(tag, false));
        let mut stream = self.engine.open(&Ask::new(Op::BuildImage, tag, "POST", target), Some(STEP_SILENCE), context)?;
        while let Some(line) = stream.line()? {
            if let Some(text) = words(&progress(Op::BuildImage, tag, &line)?) {
                said(&text);
            }
        }
        self.forget(tag);
        Ok(())
    }

    /// The id (`sha256:…`) of the image of this name; `None` if there is none.
    ///
    /// # Errors
    /// The engine failed.
    pub fn id(&self, image: &str) -> Result<Option<String>, EngineError> {
        let ask = Ask::new(Op::InspectImage, image, "GET", format!("/images/{}/json", encode(image, true)));
        match self.engine.ask_until(&ask, passing).and_then(|answer| answer.json::<Identified>()) {
            Ok(found) => Ok(Some(found.id)),
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(e),
        }
    }
}
