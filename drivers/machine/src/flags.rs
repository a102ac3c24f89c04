//! What a plugin can be told when it makes a machine: its flags, and values for them from `vmOpts.NAME`.

use std::fmt::Write;

use serde_json::Value as Json;

use crate::gob::Value;
use crate::wire::{self, RPC_FLAGS_NAME};

/// More flags than any plugin has.
const FLAGS_MAX: usize = 512;

/// A create flag, as its plugin declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub name: String,
    pub usage: String,
    /// A variable from which docker-machine takes the value; may be empty.
    pub variable: String,
    pub default: Setting,
}

/// A flag's value, of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    Text(String),
    List(Vec<String>),
    Int(i64),
    Bool(bool),
}

impl Setting {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::List(_) => "a list of texts",
            Self::Int(_) => "a number",
            Self::Bool(_) => "true or false",
        }
    }

    /// `json` as a value of this one's type.
    fn like(&self, json: &Json) -> Option<Self> {
        Some(match (self, json) {
            (Self::Text(_), Json::String(text)) => Self::Text(text.clone()),
            (Self::List(_), Json::Array(list)) => {
                Self::List(list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?)
            }
            (Self::Int(_), Json::Number(number)) => Self::Int(number.as_i64()?),
            (Self::Bool(_), Json::Bool(flag)) => Self::Bool(*flag),
            _ => return None,
        })
    }

    fn value(&self) -> Value {
        let text = |text: &String| Value::Text(text.clone());
        let (name, value) = match self {
            Self::Text(value) => ("string", text(value)),
            Self::List(list) => ("[]string", Value::List(list.iter().map(text).collect())),
            Self::Int(number) => ("int", Value::Int(*number)),
            Self::Bool(flag) => ("bool", Value::Bool(*flag)),
        };
        interface(name, value)
    }
}

/// The flags in a plugin's answer.
pub fn parse(answer: &Value) -> Option<Vec<Flag>> {
    let Value::List(list) = answer else { return None };
    if list.len() > FLAGS_MAX {
        return None;
    }
    list.iter().map(flag).collect()
}

fn flag(value: &Value) -> Option<Flag> {
    let Value::Interface(Some((kind, value))) = value else { return None };
    let text = |field: &str| value.field(field).and_then(Value::text).unwrap_or_default().to_owned();
    let default = match kind.rsplit('.').next()? {
        "StringFlag" => Setting::Text(text("Value")),
        "StringSliceFlag" => Setting::List(match value.field("Value") {
            Some(Value::List(list)) => list.iter().map(|item| item.text().map(str::to_owned)).collect::<Option<_>>()?,
            _ => Vec::new(),
        }),
        "IntFlag" => Setting::Int(value.field("Value").and_then(Value::int).unwrap_or(0)),
        "BoolFlag" => Setting::Bool(false),
        _ => return None,
    };
    Some(Flag { name: text("Name"), usage: text("Usage"), variable: text("EnvVar"), default })
}

/// The answer that [`parse`] reads.
pub fn answer(flags: &[Flag]) -> Value {
    let one = |flag: &Flag| {
        let text = |text: &String| Value::Text(text.clone());
        let mut fields =
            vec![("Name", text(&flag.name)), ("Usage", text(&flag.usage)), ("EnvVar", text(&flag.variable))];
        let kind = match &flag.default {
            Setting::Text(value) => {
                fields.push(("Value", text(value)));
                "*mcnflag.StringFlag"
            }
            Setting::List(list) => {
                fields.push(("Value", Value::List(list.iter().map(text).collect())));
                "*mcnflag.StringSliceFlag"
            }
            Setting::Int(number) => {
                fields.push(("Value", Value::Int(*number)));
                "*mcnflag.IntFlag"
            }
            Setting::Bool(_) => "*mcnflag.BoolFlag",
        };
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        interface(kind, Value::Struct(fields))
    };
    Value::List(flags.iter().map(one).collect())
}

/// A setting for each flag: `options` where they have one, else the plugin's default. Refuses what is no flag, with those
/// that there are, and a value of another type.
pub fn settings(flags: &[Flag], options: &Json) -> Result<Vec<(String, Setting)>, String> {
    let none = serde_json::Map::new();
    let options = match options {
        Json::Null => &none,
        Json::Object(options) => options,
        _ => return Err("must be a map of the plugin's create flags".into()),
    };
    if let Some(unknown) = options.keys().find(|key| !flags.iter().any(|flag| flag.name == **key)) {
        return Err(format!("there is no flag {unknown:?} ({})", names(flags)));
    }
    let setting = |flag: &Flag| {
        let given = options.get(&flag.name).filter(|value| !value.is_null());
        let setting = given.map_or(Some(flag.default.clone()), |value| flag.default.like(value));
        let setting = setting.ok_or_else(|| format!("{} must be {}", flag.name, flag.default.kind()))?;
        Ok((flag.name.clone(), setting))
    };
    flags.iter().map(setting).collect()
}

fn names(flags: &[Flag]) -> String {
    match flags.is_empty() {
        true => "it has none".into(),
        false => flags.iter().map(|flag| flag.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// A table for people: a flag a line, with its default, its variable and what it is for.
pub fn table(flags: &[Flag]) -> String {
    let mut text = String::new();
    for Flag { name, usage, variable, default } in flags {
        let default = match default {
            Setting::Text(text) => format!("{text:?}"),
            Setting::List(list) => format!("{list:?}"),
            Setting::Int(number) => number.to_string(),
            Setting::Bool(flag) => flag.to_string(),
        };
        let variable = if variable.is_empty() { String::new() } else { format!(" [${variable}]") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {default}  # {}{variable}", usage.replace(['\n', '\r'], " "));
    }
    text
}

/// The arguments of SetConfigFromFlags.
pub fn arguments(settings: &[(String, Setting)]) -> Value {
    let pairs = settings.iter().map(|(name, setting)| (Value::Text(name.clone()), setting.value())).collect();
    interface(RPC_FLAGS_NAME, wire::fields([("Values", Value::Map(pairs))]))
}

/// What [`arguments`] makes, as a peer sends it. Values that are nil, or of a kind of their own, are left out.
pub fn received(arguments: &Value) -> Option<Vec<(String, Setting)>> {
    let Value::Interface(Some((_, value))) = arguments else { return None };
    let pairs = match value.field("Values") {
        Some(Value::Map(pairs)) => pairs.as_slice(),
        _ => &[],
    };
    let one = |(name, value): &(Value, Value)| Some((name.text()?.to_owned(), setting(value)?));
    Some(pairs.iter().filter_map(one).collect())
}

fn setting(value: &Value) -> Option<Setting> {
    let Value::Interface(Some((_, value))) = value else { return None };
    Some(match value.as_ref() {
        Value::Text(text) => Setting::Text(text.clone()),
        Value::Int(number) => Setting::Int(*number),
        Value::Bool(flag) => Setting::Bool(*flag),
        Value::List(list) => {
            Setting::List(list.iter().map(|item| item.text().map(str::to_owned)).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn interface(name: &str, value: Value) -> Value {
    Value::Interface(Some((name.to_owned(), Box::new(value))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flags() -> Vec<Flag> {
        let flag = |name: &str, default| Flag {
            name: name.into(),
            usage: "For\ntests".into(),
            variable: "PAPER".into(),
            default,
        };
        vec![
            flag("paper-colour", Setting::Text("white".into())),
            flag("paper-label", Setting::List(vec!["a".into()])),
            flag("paper-size", Setting::Int(4)),
            flag("paper-loud", Setting::Bool(false)),
        ]
    }

    #[test]
    fn flags_are_told_and_read_alike() {
        assert_eq!(parse(&answer(&flags())), Some(flags()));
        assert_eq!(parse(&Value::Int(1)), None);
    }

    #[test]
    fn options_are_taken_by_their_flags_types() {
        let given = json!({"paper-size": 5, "paper-loud": true, "paper-label": []});
        let settings = settings(&flags(), &given).unwrap();
        let expected = [
            ("paper-colour", Setting::Text("white".into())),
            ("paper-label", Setting::List(vec![])),
            ("paper-size", Setting::Int(5)),
            ("paper-loud", Setting::Bool(true)),
        ];
        assert_eq!(settings, expected.map(|(name, setting)| (name.to_owned(), setting)));
        assert_eq!(received(&arguments(&settings)).unwrap(), settings);
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_flags_that_there_are() {
        let error = settings(&flags(), &json!({"colour": "red"})).unwrap_err();
        assert_eq!(error, "there is no flag \"colour\" (paper-colour, paper-label, paper-size, paper-loud)");
        let error = settings(&flags(), &json!({"paper-size": "5"})).unwrap_err();
        assert_eq!(error, "paper-size must be a number");
        assert!(settings(&flags(), &json!([])).is_err());
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let table = table(&flags());
        assert_eq!(table.lines().next(), Some("paper-colour: \"white\"  # For tests [$PAPER]"));
        assert_eq!(table.lines().count(), 4);
    }
}
