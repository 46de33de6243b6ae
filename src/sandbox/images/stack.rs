//! A new image on one that is there: the same layers, one more, and another
//! program.

use std::io::Read;
use std::time::Instant;

use serde_json::{Value, json};

use super::document::{self, Descriptor, Manifest};
use super::error::ImageError;
use super::load::{Loaded, copy};
use super::store::Reference;
use super::wait::Until;
use super::{Images, full_name};
use crate::pool::Stop;
use crate::registry::ImageName;

/// What the new image says otherwise than the one below it.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
}

impl Images {
    /// Makes image `name`: `base`, which must be in the store, and over it the
    /// files of `layer`, a plain tar archive. The same parts give the same image.
    ///
    /// # Errors
    /// There is no `base`, the layer is hostile or too big, or the store can't
    /// be written.
    pub fn stack(&self, base: &str, layer: &mut dyn Read, name: &str, change: &Change, until: Instant, stop: &Stop) -> Result<Loaded, ImageError> {
        let until = Until { deadline: until, stop };
        let (base, name) = (ImageName::parse(base)?, full_name(&ImageName::parse(name)?));
        let _session = self.store.session(&until)?;
        let below = self
            .store
            .reference(&full_name(&base))?
            .ok_or_else(|| ImageError::NotFound { image: base.to_string(), why: ": it is not in the store".to_owned() })?;
        let manifest = self.manifest(&below)?;

        let limits = &self.options.limits;
        let mut blob = self.store.new_blob(limits.bytes)?;
        copy(&mut { layer }, &mut blob, &until)?;
        let (digest, size) = self.store.keep_blob(blob)?;
        let config = self.store.document(&manifest.config.digest()?, limits)?;
        let config = changed(&below.name, &config, digest.as_str(), change)?;
        document::settle(&name, &config)?;
        let id = self.store.add_bytes(&config)?;

        let mut layers = manifest.layers;
        layers.push(Descriptor::plain(document::OCI_LAYER, &digest, size));
        let manifest = Manifest::new(Descriptor::plain(document::OCI_CONFIG, &id, config.len() as u64), layers);
        let bytes = serde_json::to_vec(&manifest).map_err(|e| malformed(&name, &e.to_string()))?;
        document::parse(&bytes, limits)?;
        let reference = Reference::new(name.clone(), &self.store.add_bytes(&bytes)?, &id, below.size + size + config.len() as u64);
        // Unpacked before it has its name: a hostile one is never called.
        self.rootfs(&reference, &until)?;
        self.store.set_reference(&reference)?;
        Ok(Loaded { name, id: id.to_string() })
    }
}

fn malformed(image: &str, text: &str) -> ImageError {
    ImageError::Malformed { what: format!("image {image}"), text: text.to_owned() }
}

/// The configuration of the image below, with the new layer and program.
fn changed(image: &str, config: &[u8], diff_id: &str, change: &Change) -> Result<Vec<u8>, ImageError> {
    let mut config: Value = serde_json::from_slice(config).map_err(|e| malformed(image, &e.to_string()))?;
    let layers = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut);
    layers.ok_or_else(|| malformed(image, "its configuration names no layers"))?.push(json!(diff_id));
    if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) {
        history.push(json!({"created": "1970-01-01T00:00:00Z", "created_by": "hob deploy"}));
    }
    let config = config.as_object_mut().ok_or_else(|| malformed(image, "its configuration is no object"))?;
    let mut runs = config.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    runs.insert("Entrypoint".to_owned(), json!(change.entrypoint));
    runs.insert("Cmd".to_owned(), json!(change.cmd));
    if !change.working_dir.is_empty() {
        runs.insert("WorkingDir".to_owned(), json!(change.working_dir));
    }
    config.insert("config".to_owned(), Value::Object(runs));
    serde_json::to_vec(config).map_err(|e| malformed(image, &e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_stays_but_for_the_program() {
        let below = br#"{"os":"linux","config":{"Env":["A=1"],"User":"5","Cmd":["x"]},"rootfs":{"type":"layers","diff_ids":["sha256:a"]},"history":[{}]}"#;
        let change = Change { entrypoint: vec!["/p".to_owned()], cmd: Vec::new(), working_dir: "/w".to_owned() };
        let made: Value = serde_json::from_slice(&changed("i", below, "sha256:b", &change).expect("made")).expect("JSON");
        assert_eq!(made["config"], json!({"Env": ["A=1"], "User": "5", "Cmd": [], "Entrypoint": ["/p"], "WorkingDir": "/w"}));
        assert_eq!(made["rootfs"]["diff_ids"], json!(["sha256:a", "sha256:b"]));
        assert_eq!(made["history"].as_array().map(Vec::len), Some(2));
        for bad in ["[]", "{}", r#"{"rootfs":{"diff_ids":1}}"#, "x"] {
            assert!(changed("i", bad.as_bytes(), "d", &change).is_err(), "{bad}");
        }
        let bare: Value = serde_json::from_slice(&changed("i", br#"{"config":"odd","rootfs":{"diff_ids":[]}}"#, "d", &change).expect("made")).expect("JSON");
        assert_eq!(bare["config"]["Entrypoint"], json!(["/p"]));
    }
}
