//! Values as the lines of a block, at a given indentation.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::value::base64_of;

/// As Lima: a longer line is no script, and some parsers give up on it.
const LONGEST_LINE: usize = 65_000;

const BINARY_WIDTH: usize = 76;

/// `key: value`, without indentation on its first line.
pub fn entry(key: &str, value: &Value, indent: usize) -> String {
    let key = scalar(key);
    let below = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() && base64_of(value).is_none() => {
            let entries = map.iter().map(|(key, value)| format!("{below}  {}", entry(key, value, indent + 2)));
            format!("{key}:\n{}", entries.collect::<String>())
        }
        Value::Array(items) if !items.is_empty() => {
            let items = items.iter().map(|value| format!("{below}{}", item(value, indent)));
            format!("{key}:\n{}", items.collect::<String>())
        }
        value => format!("{key}: {}\n", leaf(value, indent + 2)),
    }
}

/// `- value`, without indentation on its first line.
pub fn item(value: &Value, indent: usize) -> String {
    let Some(map) = value.as_object().filter(|map| !map.is_empty() && base64_of(value).is_none()) else {
        return format!("- {}\n", leaf(value, indent + 2));
    };
    let below = " ".repeat(indent + 2);
    let entries: Vec<String> = map.iter().map(|(key, value)| entry(key, value, indent + 2)).collect();
    format!("- {}", entries.join(&below))
}

fn leaf(value: &Value, indent: usize) -> String {
    if let Some(coded) = base64_of(value) {
        return binary(coded, indent);
    }
    match value {
        Value::String(text) if needs_base64(text) => binary(&BASE64_STANDARD.encode(text), indent),
        Value::String(text) if text.contains('\n') => literal(text, indent),
        Value::String(text) => scalar(text),
        // JSON is YAML: what is left are numbers, empty collections and lists within lists.
        value => value.to_string(),
    }
}

fn binary(coded: &str, indent: usize) -> String {
    let lines = coded.as_bytes().chunks(BINARY_WIDTH).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.map(|line| format!("{}{line}", " ".repeat(indent))).collect();
    format!("!!binary |\n{}", lines.join("\n"))
}

/// Texts that no other style would keep as they are.
fn needs_base64(text: &str) -> bool {
    let printable =
        |c: char| c == '\n' || c == '\t' || !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    !text.chars().all(printable) || text.lines().any(|line| line.len() > LONGEST_LINE)
}

fn literal(text: &str, indent: usize) -> String {
    let end = if !text.ends_with('\n') {
        "-"
    } else if text.ends_with("\n\n") || text == "\n" {
        "+"
    } else {
        ""
    };
    // Otherwise the first line would tell the depth.
    let depth = if text.starts_with([' ', '\n', '\t']) { "2" } else { "" };
    let body = text.strip_suffix('\n').unwrap_or(text);
    let line = |line: &str| if line.is_empty() { String::new() } else { format!("{}{line}", " ".repeat(indent)) };
    let lines: Vec<String> = body.split('\n').map(line).collect();
    format!("|{depth}{end}\n{}", lines.join("\n"))
}

/// One line, in quotes where it needs them.
fn scalar(text: &str) -> String {
    let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
    let plain = serde_yaml::to_string_with_options(&text, options).unwrap_or_default();
    match plain.trim_end() {
        plain if plain.is_empty() || plain.contains('\n') => Value::from(text).to_string(),
        plain => plain.to_owned(),
    }
}
