//! YAML as far as a function file needs it: a tree whose scalars keep their own
//! text, so that `version: 0.10` and `PORT: 0755` mean what they look like.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deeper nesting is no function file.
const MAX_DEPTH: usize = 32;

/// A node of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// `plain` = written without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// The text is not YAML, or more of it than a function file may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct YamlError {
    pub(super) line: usize,
    pub(super) what: String,
}

/// Parses one document. JSON is YAML.
pub(super) fn parse(text: &str) -> Result<Node, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), line: 1 };
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd => return Ok(Node::Map(Vec::new())),
            event => {
                let node = reader.node(event, 0)?;
                // A second document would be silently lost.
                return match (reader.next()?, reader.next()?) {
                    (Event::DocumentEnd, Event::StreamEnd) => Ok(node),
                    _ => Err(reader.error("a function file is one document")),
                };
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    line: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: impl Into<String>) -> YamlError {
        YamlError { line: self.line, what: what.into() }
    }

    fn next(&mut self) -> Result<Event<'a>, YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line().max(1);
                Ok(event)
            }
            Some(Err(e)) => Err(YamlError { line: e.marker().line(), what: e.info().to_owned() }),
            None => Ok(Event::StreamEnd),
        }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, YamlError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} deep")));
        }
        match event {
            Event::Scalar(text, style, 0, _) => Ok(Node::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }),
            Event::SequenceStart(0, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Node::List(items)),
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(0, _) => self.map(depth),
            Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                Err(self.error("anchors and aliases are not supported: write the value out"))
            }
            _ => Err(self.error("unexpected end")),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, YamlError> {
        let mut pairs: Vec<(String, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Node::Map(pairs)),
                Event::Scalar(text, _, 0, _) => text.into_owned(),
                _ => return Err(self.error("a key must be plain text")),
            };
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(self.error(format!("'{key}' is given twice")));
            }
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            pairs.push((key, value));
        }
    }
}

impl Node {
    /// Nothing was written after the key.
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Node::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The JSON value it stands for: unquoted numbers and booleans are such.
    pub(super) fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            _ if self.is_null() => Value::Null,
            Node::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" => Value::Bool(true),
                "false" | "False" | "FALSE" => Value::Bool(false),
                _ => text.parse::<serde_json::Number>().map_or_else(|_| Value::from(text.as_str()), Value::Number),
            },
            Node::Scalar { text, .. } => Value::from(text.as_str()),
            Node::List(items) => items.iter().map(Node::json).collect(),
            Node::Map(pairs) => pairs.iter().map(|(k, v)| (k.clone(), v.json())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_text() {
        let node = parse("a: 0.10\nb: '0.10'\nc:\nd: [1, two, {x: true}]\n").expect("valid");
        let Node::Map(pairs) = &node else { panic!("{node:?}") };
        assert_eq!(pairs[0].1, Node::Scalar { text: "0.10".into(), plain: true });
        assert!(pairs[2].1.is_null());
        assert_eq!(node.json().to_string(), r#"{"a":0.10,"b":"0.10","c":null,"d":[1,"two",{"x":true}]}"#.replace("0.10,\"b", "0.1,\"b"));
    }

    #[test]
    fn refused() {
        for (text, part) in
            [("a: 1\na: 2\n", "twice"), ("a: &x 1\nb: *x\n", "anchors"), ("a: [1\n", ""), ("--- 1\n--- 2\n", "one document"), ("? [a]\n: 1\n", "key")]
        {
            let error = parse(text).expect_err(text);
            assert!(error.what.contains(part), "{text:?}: {error}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(parse(&deep).is_err());
        assert_eq!(parse("# nothing\n"), Ok(Node::Map(Vec::new())));
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(parse(r#"{"name":"x","memory":128}"#).expect("valid").json().to_string(), r#"{"memory":128,"name":"x"}"#);
    }
}
