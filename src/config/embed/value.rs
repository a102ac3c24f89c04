//! Documents as plain values, and how one is built upon another. Unlike what is merged at load, whatever is written
//! counts here, unknown keys and explicit nulls too.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::config::tree::{Node, Tree};
use crate::config::validate::version::Version;

/// The values of `tree`. A number that would be printed in other digits (`0644`) is its text, which reads the same.
pub fn of(tree: &Tree, source: &str) -> Value {
    let number = |value: Value| {
        let written = source.get(tree.source.clone()).unwrap_or_default().trim();
        let printed = value.to_string();
        if written.is_empty() || printed == written { value } else { Value::String(written.into()) }
    };
    match &tree.node {
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => number((*value).into()),
        Node::Float(value) => number((*value).into()),
        Node::Text(text) => Value::String(text.clone()),
        Node::Bytes(bytes) => binary(bytes),
        Node::List(items) => items.iter().map(|item| of(item, source)).collect(),
        Node::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), of(&entry.value, source))).collect(),
    }
}

/// The key of what stands for bytes that are no text. YAML has no such key unless somebody takes pains to quote it.
const BINARY: &str = "!!binary";

/// A value that stands for bytes.
pub fn binary(bytes: &[u8]) -> Value {
    Value::Object([(BINARY.to_owned(), Value::String(BASE64_STANDARD.encode(bytes)))].into_iter().collect())
}

/// The base64 of a value that stands for bytes.
pub fn base64_of(value: &Value) -> Option<&str> {
    value.as_object().filter(|map| map.len() == 1)?.get(BINARY)?.as_str()
}

/// How many values there are in all.
pub fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// Completes `child` with what `base` has besides.
pub fn merge(child: &mut Value, base: Value) {
    merge_at("", child, base);
}

fn merge_at(path: &str, child: &mut Value, base: Value) {
    match (child, base) {
        (Value::Object(child), Value::Object(base)) => {
            for (key, value) in base {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match child.get_mut(&key) {
                    Some(own) => merge_at(&path, own, value),
                    None => {
                        child.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(own), Value::Array(mut base)) => match path {
            "dns" if own.is_empty() => *own = base,
            "dns" => {}
            // What a base sets up is there when the child's scripts run.
            "provision" | "probes" => {
                base.append(own);
                *own = base;
            }
            "mountTypesUnsupported" => {
                base.retain(|entry| !own.contains(entry));
                own.append(&mut base);
            }
            _ => own.append(&mut base),
        },
        (own, base) if matches!(path, "minimumLimaVersion" | "vmOpts.qemu.minimumVersion") => {
            let version = |value: &Value| value.as_str().and_then(Version::parse);
            if version(&base) > version(own) && !own.is_null() {
                *own = base;
            }
        }
        // Written in the child, if only as null.
        _ => {}
    }
}
