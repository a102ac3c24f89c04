//! A small interpreter of Go's text/template, as far as lima.yaml needs it: fields, variables, pipelines, `if`,
//! `with`, `range` and pure functions. Hostile text costs bounded time and memory. Knows no environment, file or
//! process, and never will.

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;
mod value;

pub use value::Value;

/// The longest result, and the longest text made on the way.
const MOST_BYTES: usize = 1 << 20;

/// Steps to take and bytes to make. One tank serves all texts of a document, lest many small ones do what a big one
/// must not.
pub struct Fuel(usize);

impl Default for Fuel {
    fn default() -> Self {
        Self(4 << 20)
    }
}

/// The longest reason given for refusing a text, characters.
const MOST_REASON: usize = 500;

/// How deep blocks and parentheses may nest.
const MOST_DEPTH: usize = 50;

/// The text with its actions carried out, or why not in one sentence.
pub fn expand(text: &str, root: &Value, fuel: &mut Fuel) -> Result<String, String> {
    if !has_actions(text) {
        return Ok(text.to_owned());
    }
    lex::lex(text).and_then(parse::parse).and_then(|nodes| eval::run(&nodes, root, fuel)).map_err(shortened)
}

/// Reasons quote words of the text, which may be as long as the text.
fn shortened(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(MOST_REASON) {
        why.truncate(end);
        why.push_str("...");
    }
    why
}

/// Whether there is anything to expand.
pub fn has_actions(text: &str) -> bool {
    text.contains("{{")
}

#[cfg(test)]
mod tests;
