//! Entries of a list that are about the same thing become one, after all bases were merged: disks of a name, mounts of a
//! place, networks of an interface. The earlier entry counts more. An entry for `*` completes all before it.

use serde_json::{Map, Value};

/// A list, and the keys that say what an entry is about: the first that is set.
const LISTS: &[(&str, &[&str])] =
    &[("additionalDisks", &["name"]), ("mounts", &["mountPoint", "location"]), ("networks", &["interface"])];

/// A network is of one of these kinds, which therefore go together.
const KINDS: &[&str] = &["lima", "socket", "vzNAT"];

const ALL: &str = "*";

pub fn combine(document: &mut Value) {
    for (list, keys) in LISTS {
        if let Some(Value::Array(entries)) = document.get_mut(*list) {
            *entries = combine_list(std::mem::take(entries), keys);
        }
    }
}

fn combine_list(entries: Vec<Value>, keys: &[&str]) -> Vec<Value> {
    let mut combined: Vec<Value> = Vec::new();
    for entry in entries {
        match key(&entry, keys).map(str::to_owned) {
            Some(name) if name == ALL => {
                let Value::Object(mut fields) = as_map(entry) else { continue };
                fields.retain(|key, value| !keys.contains(&key.as_str()) || value != ALL);
                for earlier in &mut combined {
                    complete(earlier, fields.clone());
                }
            }
            Some(name) => match combined.iter_mut().find(|earlier| key(earlier, keys) == Some(&name)) {
                Some(earlier) => {
                    if let Value::Object(fields) = as_map(entry) {
                        complete(earlier, fields);
                    }
                }
                None => combined.push(entry),
            },
            None => combined.push(entry),
        }
    }
    combined
}

/// A disk may be its name alone.
fn key<'a>(entry: &'a Value, keys: &[&str]) -> Option<&'a str> {
    match entry {
        Value::String(name) if keys.contains(&"name") => Some(name),
        entry => keys.iter().find_map(|key| entry.get(key)?.as_str().filter(|name| !name.is_empty())),
    }
}

fn as_map(entry: Value) -> Value {
    match entry {
        Value::String(name) => Value::Object([("name".to_owned(), Value::String(name))].into_iter().collect()),
        entry => entry,
    }
}

fn complete(earlier: &mut Value, mut fields: Map<String, Value>) {
    if earlier.is_string() && fields.iter().any(|(key, _)| key != "name") {
        *earlier = as_map(std::mem::take(earlier));
    }
    let Value::Object(earlier) = earlier else { return };
    if KINDS.iter().any(|kind| earlier.contains_key(*kind)) {
        fields.retain(|key, _| !KINDS.contains(&key.as_str()));
    }
    for (key, value) in fields {
        match (earlier.get_mut(&key), value) {
            (None, value) => {
                earlier.insert(key, value);
            }
            (Some(own @ Value::Object(_)), Value::Object(fields)) => complete(own, fields),
            (Some(_), _) => {}
        }
    }
}
