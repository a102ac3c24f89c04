//! Texts to values and back.

use std::path::Path;

use serde_json::{Map, Value};

use super::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
    Ini,
}

impl Format {
    /// By Lima's word; `auto` goes by the file's name, and what that does not tell is YAML.
    pub fn named(word: &str, file: Option<&Path>) -> Result<Self, Failure> {
        let ending = file.and_then(Path::extension).and_then(|ending| ending.to_str()).unwrap_or_default();
        match (word, ending) {
            ("yaml" | "yml", _) => Ok(Self::Yaml),
            ("json", _) | ("auto" | "", "json") => Ok(Self::Json),
            ("ini", _) | ("auto" | "", "ini") => Ok(Self::Ini),
            ("auto" | "", "csv" | "tsv" | "toml" | "xml" | "properties") => Err(format!("{ending} is not supported")),
            ("auto" | "", _) => Ok(Self::Yaml),
            _ => Err(format!("{word} is not supported: yaml, json, ini are")),
        }
    }
}

pub fn parse(text: &str, format: Format) -> Result<Value, Failure> {
    match format {
        _ if text.trim().is_empty() => Ok(Value::Null),
        Format::Yaml => serde_yaml::from_str::<Option<Value>>(text).map(Option::unwrap_or_default).map_err(|error| {
            // Its own words quote the text.
            let line = error.location().map(|place| format!(", line {}", place.line()));
            format!("is no YAML{}", line.unwrap_or_default())
        }),
        Format::Json => serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}")),
        Format::Ini => parse_ini(text),
    }
}

pub fn print(value: &Value, format: Format) -> Result<String, Failure> {
    match format {
        Format::Yaml => {
            let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
            serde_yaml::to_string_with_options(value, options).map_err(|error| error.to_string())
        }
        Format::Json => Ok(format!("{value:#}\n")),
        Format::Ini => print_ini(value),
    }
}

/// `[section]` and `key = value`; comments begin a line. A key that comes twice would lose one of its values.
fn parse_ini(text: &str) -> Result<Value, Failure> {
    let mut document = Map::new();
    let mut section: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let wrong = |why: &str| format!("is no INI: line {}: {why}", number + 1);
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| wrong("a section without its end"))?.trim();
            document.entry(name).or_insert_with(|| Map::new().into());
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("neither a section nor a key with a value"))?;
        let keys = match &section {
            Some(name) => document[name].as_object_mut().ok_or_else(|| wrong("a section named as a key"))?,
            None => &mut document,
        };
        if keys.insert(key.trim().to_owned(), value.trim().into()).is_some() {
            return Err(wrong("a key that was there before"));
        }
    }
    Ok(document.into())
}

fn print_ini(value: &Value) -> Result<String, Failure> {
    let document = value.as_object().ok_or("the result is no object, which INI needs")?;
    let mut text = String::new();
    for (key, value) in document.iter().filter(|(_, value)| !value.is_object()) {
        text.push_str(&ini_line(key, value)?);
    }
    for (name, section) in document {
        let Some(keys) = section.as_object() else { continue };
        text.push_str(&format!("{}[{name}]\n", if text.is_empty() { "" } else { "\n" }));
        for (key, value) in keys {
            text.push_str(&ini_line(key, value)?);
        }
    }
    Ok(text)
}

fn ini_line(key: &str, value: &Value) -> Result<String, Failure> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => return Err(format!("{key} is no text, which INI needs")),
    };
    if text.contains(['\n', '\r']) {
        return Err(format!("{key} has more than one line"));
    }
    Ok(format!("{key} = {text}\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_found_by_word_and_by_name() {
        for (word, file, format) in [
            ("auto", "/a/daemon.json", Ok(Format::Json)),
            ("auto", "/a/b.yml", Ok(Format::Yaml)),
            ("auto", "/a/conf", Ok(Format::Yaml)),
            ("auto", "/a/b.ini", Ok(Format::Ini)),
            ("ini", "/a/override.conf", Ok(Format::Ini)),
            ("auto", "/a/b.toml", Err(())),
            ("xml", "/a/b.json", Err(())),
        ] {
            assert_eq!(Format::named(word, Some(Path::new(file))).map_err(drop), format, "{word} {file}");
        }
    }

    #[test]
    fn texts_come_back_as_they_were() {
        for (format, text, value) in [
            (Format::Json, "{\n  \"b\": 1,\n  \"a\": [\n    null\n  ]\n}\n", json!({"b": 1, "a": [null]})),
            (Format::Yaml, "b: 1\na:\n- x: 'yes'\n", json!({"b": 1, "a": [{"x": "yes"}]})),
            (
                Format::Ini,
                "top = 1\n\n[Unit]\nA = b = c\n\n[Empty]\n",
                json!({"top": "1", "Unit": {"A": "b = c"}, "Empty": {}}),
            ),
        ] {
            assert_eq!(parse(text, format), Ok(value.clone()), "{text}");
            let printed = print(&value, format).unwrap();
            assert_eq!(parse(&printed, format), Ok(value), "{printed}");
            if format != Format::Yaml {
                assert_eq!(printed, text);
            }
        }
        for format in [Format::Json, Format::Yaml, Format::Ini] {
            assert_eq!(parse(" \n", format), Ok(Value::Null));
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        for text in ["[a", "word", "[a]\nb = 1\nb = 2", "a = 1\n[a]\nb = 1"] {
            assert!(parse(text, Format::Ini).is_err(), "{text}");
        }
        for value in [json!([1]), json!({"a": {"b": {}}}), json!({"a": [1]}), json!({"a": "x\ny = 1"})] {
            assert!(print(&value, Format::Ini).is_err(), "{value}");
        }
        assert!(parse("a: 1\n---\nb: 2\n", Format::Yaml).is_err());
    }
}
