//! What is to be said about a document, faults or warnings: collected first, then told together, each with its place.

use super::tree::{Position, Tree};

/// More lines than this help nobody.
const MOST_LINES: usize = 50;

/// In characters. A sentence quotes what was written, which may be long.
const LONGEST_LINE: usize = 400;

/// Remarks on one document.
#[derive(Debug, Default)]
pub struct Remarks {
    list: Vec<Remark>,
    /// Fields of which nothing more is to be said: one that could not be read is not also missing.
    closed: Vec<String>,
}

#[derive(Debug)]
struct Remark {
    field: String,
    sentence: String,
    /// Known already; else found by the field when the remarks are told.
    at: Option<Position>,
}

impl Remarks {
    /// `FIELD: WHY`
    pub fn add(&mut self, field: impl Into<String>, why: impl AsRef<str>) {
        let field = field.into();
        let sentence = format!("{field}: {}", why.as_ref());
        self.say(field, sentence);
    }

    /// `FIELD must be set`
    pub fn must_be_set(&mut self, field: impl Into<String>) {
        let field = field.into();
        let sentence = format!("{field} must be set");
        self.say(field, sentence);
    }

    /// A sentence that names the field by itself.
    pub fn say(&mut self, field: impl Into<String>, sentence: impl Into<String>) {
        self.push(Remark { field: field.into(), sentence: sentence.into(), at: None });
    }

    /// For a place that is known better than by the field.
    pub fn add_at(&mut self, field: String, at: Position, why: &str) {
        let sentence = if field.is_empty() { why.to_owned() } else { format!("{field}: {why}") };
        self.push(Remark { field, sentence, at: Some(at) });
    }

    /// Leaves out what will be added on `field` and below it.
    pub fn close(&mut self, field: String) {
        self.closed.push(field);
    }

    fn push(&mut self, mut remark: Remark) {
        if let Some((end, _)) = remark.sentence.char_indices().nth(LONGEST_LINE) {
            remark.sentence.truncate(end);
            remark.sentence.push_str("...");
        }
        if !self.closed.iter().any(|closed| is_within(&remark.field, closed)) {
            self.list.push(remark);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One line each, in the order of their places.
    pub fn into_lines(mut self, tree: &Tree) -> Vec<String> {
        for remark in &mut self.list {
            remark.at = remark.at.or_else(|| tree.locate(&remark.field));
        }
        self.list.sort_by_key(|remark| remark.at);
        let line = |Remark { sentence, at, .. }| match at {
            Some(at) => format!("{at}: {sentence}"),
            None => sentence,
        };
        let more = self.list.len().saturating_sub(MOST_LINES);
        let lines = self.list.into_iter().take(MOST_LINES).map(line);
        lines.chain((more > 0).then(|| format!("and {more} more"))).collect()
    }
}

/// Whether `field` is `parent` or below it.
fn is_within(field: &str, parent: &str) -> bool {
    parent.is_empty() || field.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
