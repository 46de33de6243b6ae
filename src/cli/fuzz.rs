//! What holds for any bytes: see `crate::fuzz`.

use std::fmt::Write as _;

use super::{funcfile, yaml};
use yaml::Node;

/// A function file: written out again with every scalar quoted, it is the same.
pub fn func_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(node) = yaml::parse(text) else { return };
    // What it says, or what is wrong with it.
    let _ = funcfile::interpret(&node);
    let _ = node.json();
    // A longer key may not stand on one line with its value.
    if longest_key(&node) > 100 {
        return;
    }
    let mut written = String::new();
    write(&node, &mut written);
    let again = yaml::parse(&written).unwrap_or_else(|e| panic!("{written}: {e}"));
    assert_eq!(quoted(&again), quoted(&node), "{written}");
}

fn longest_key(node: &Node) -> usize {
    match node {
        Node::Scalar { .. } => 0,
        Node::List(items) => items.iter().map(longest_key).max().unwrap_or(0),
        Node::Map(pairs) => pairs.iter().map(|(key, value)| key.chars().count().max(longest_key(value))).max().unwrap_or(0),
    }
}

fn quoted(node: &Node) -> Node {
    match node {
        Node::Scalar { text, .. } => Node::Scalar { text: text.clone(), plain: false },
        Node::List(items) => Node::List(items.iter().map(quoted).collect()),
        Node::Map(pairs) => Node::Map(pairs.iter().map(|(key, value)| (key.clone(), quoted(value))).collect()),
    }
}

fn write(node: &Node, out: &mut String) {
    match node {
        Node::Scalar { text, .. } => quote(text, out),
        Node::List(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push_str(", ");
            }
            out.push(']');
        }
        Node::Map(pairs) => {
            out.push('{');
            for (key, value) in pairs {
                quote(key, out);
                out.push_str(": ");
                write(value, out);
                out.push_str(", ");
            }
            out.push('}');
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else {
            let _ = write!(out, "\\U{:08x}", u32::from(c));
        }
    }
    out.push('"');
}
