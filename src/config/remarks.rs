//! What is to be said about a document, faults or warnings: collected first, then told together, each with its place.

use super::layers::{Layer, Stack};
use super::tree::{Position, Tree};

/// More lines than this help nobody.
const MOST_LINES: usize = 50;

/// In characters. A sentence quotes what was written, which may be long.
const LONGEST_LINE: usize = 400;

/// Remarks on a configuration and the documents that it is made of.
#[derive(Debug, Default)]
pub struct Remarks {
    list: Vec<Remark>,
    /// Fields of which only what is known already is to be said: one that could not be read is not also missing.
    closed: Vec<(Layer, String)>,
}

#[derive(Debug)]
struct Remark {
    field: String,
    sentence: String,
    /// Known already, with the field's path in that document; else found by the field when the remarks are told.
    at: Option<(Layer, Option<Position>)>,
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
    pub fn add_at(&mut self, field: String, layer: Layer, at: Position, why: &str) {
        let sentence = if field.is_empty() { why.to_owned() } else { format!("{field}: {why}") };
        self.push(Remark { field, sentence, at: Some((layer, Some(at))) });
    }

    /// `FIELD: WHY` of one document, whatever the others say.
    pub fn add_in(&mut self, layer: Layer, tree: &Tree, field: &str, why: &str) {
        let (at, _) = tree.locate(field);
        self.push(Remark { field: field.into(), sentence: format!("{field}: {why}"), at: Some((layer, at)) });
    }

    /// Leaves out what is found later on `field` of a document and below it.
    pub fn close_in(&mut self, layer: Layer, field: String) {
        self.closed.push((layer, field));
    }

    /// Takes over what was said elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
        self.closed.extend(other.closed);
    }

    fn push(&mut self, mut remark: Remark) {
        if let Some((end, _)) = remark.sentence.char_indices().nth(LONGEST_LINE) {
            remark.sentence.truncate(end);
            remark.sentence.push_str("...");
        }
        self.list.push(remark);
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One line each, by document and in the order of their places.
    pub fn into_lines(self, stack: &Stack) -> Vec<String> {
        let Self { list, closed } = self;
        let told = |remark: Remark| match remark.at {
            Some((layer, at)) => Some((layer, at, remark.sentence)),
            None => {
                let (layer, path, at) = stack.locate(&remark.field);
                let is_closed = closed.iter().any(|(of, field)| *of == layer && is_within(&path, field));
                let sentence = match remark.sentence.strip_prefix(&remark.field) {
                    Some(behind) => format!("{path}{behind}"),
                    None => remark.sentence,
                };
                (!is_closed).then_some((layer, at, sentence))
            }
        };
        lines(list.into_iter().filter_map(told).collect())
    }

    /// The same where one document alone was read, and all places are known.
    pub fn into_lines_of(self, layer: Layer) -> Vec<String> {
        let told = |remark: Remark| (layer, remark.at.and_then(|(_, at)| at), remark.sentence);
        lines(self.list.into_iter().map(told).collect())
    }
}

fn lines(mut told: Vec<(Layer, Option<Position>, String)>) -> Vec<String> {
    // What the user has just written comes first.
    told.sort_by_key(|(layer, at, _)| (*layer != Layer::Written, *layer, *at));
    let more = told.len().saturating_sub(MOST_LINES);
    let line = |(layer, at, sentence): (Layer, Option<Position>, String)| match at {
        Some(at) => format!("{}: {at}: {sentence}", layer.file()),
        None => format!("{}: {sentence}", layer.file()),
    };
    told.into_iter().take(MOST_LINES).map(line).chain((more > 0).then(|| format!("and {more} more"))).collect()
}

/// Whether `field` is `parent` or below it.
fn is_within(field: &str, parent: &str) -> bool {
    parent.is_empty() || field.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
