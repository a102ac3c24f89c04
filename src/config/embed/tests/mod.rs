//! What documents become, with other files that are there by name.

use super::*;
use crate::config::layers::Layer;
use crate::config::parse::parse;

mod bases;
mod files;
mod hostile;
mod layout;

/// Embeds with `files` as all that there is in the world.
fn embedded_as(first: Option<&str>, text: &str, files: &[(&str, &[u8])]) -> Result<String> {
    let mut library = Library::new();
    loop {
        match embed(text.as_bytes(), first.map(Path::new), Path::new("/home/jane"), &library)? {
            Step::Done(text) => return Ok(String::from_utf8(text).unwrap()),
            Step::Fetch(request) => {
                let found = files.iter().find(|(name, _)| *name == request.to_string());
                let (_, bytes) = found.ok_or(Error::Missing { what: request.to_string() })?;
                assert!(library.insert(request, bytes.to_vec()).is_none(), "asked for twice");
            }
        }
    }
}

fn embedded(text: &str, files: &[(&str, &str)]) -> String {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    embedded_as(None, text, &files).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn refused(text: &str, files: &[(&str, &str)]) -> String {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    match embedded_as(None, text, &files) {
        Ok(done) => panic!("embedded: {text}\n{done}"),
        Err(error) => error.to_string(),
    }
}

fn config(text: &str) -> Config {
    parse(text.as_bytes(), Layer::Written).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

/// `child` built upon `base` is what `expected` is; in every style of YAML that the child may be in.
fn assert_built(child: &str, base: &str, expected: &str) {
    let json = serde_yaml::to_string(&value(child)).unwrap();
    for child in [child, json.trim_start_matches("{}")] {
        let text = embedded(&format!("base: /base\n{child}"), &[("/base", base)]);
        assert_eq!(value(&text), value(expected), "{child}\non\n{base}\nis\n{text}");
    }
}

fn value(text: &str) -> Value {
    let (tree, text) = parse_tree(text.as_bytes(), "test").unwrap_or_else(|error| panic!("{text}\n{error}"));
    match value::of(&tree, text) {
        Value::Null => Value::Object(Map::new()),
        value => value,
    }
}
