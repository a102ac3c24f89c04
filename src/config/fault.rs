//! What is wrong with a document: collected first, then told together, each with its place.

use super::tree::{Position, Tree};
use crate::error::Error;

/// The faults of one document.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Debug)]
struct Fault {
    field: String,
    sentence: String,
    /// Known already; else found by the field when the faults are told.
    at: Option<Position>,
}

impl Faults {
    /// `FIELD: WHY`
    pub fn add(&mut self, field: impl Into<String>, why: impl AsRef<str>) {
        let field = field.into();
        let sentence = format!("{field}: {}", why.as_ref());
        self.push(Fault { field, sentence, at: None });
    }

    pub fn add_at(&mut self, field: String, at: Position, why: &str) {
        let sentence = if field.is_empty() { why.to_owned() } else { format!("{field}: {why}") };
        self.push(Fault { field, sentence, at: Some(at) });
    }

    /// `FIELD must be set`
    pub fn must_be_set(&mut self, field: impl Into<String>) {
        let field = field.into();
        let sentence = format!("{field} must be set");
        self.push(Fault { field, sentence, at: None });
    }

    /// Leaves out what follows from a fault that is known: a field that could not be read is not also missing.
    fn push(&mut self, fault: Fault) {
        let follows = |known: &Fault| known.at.is_some() && fault.at.is_none() && is_within(&fault.field, &known.field);
        if !self.0.iter().any(follows) {
            self.0.push(fault);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The faults in the order of their places, as one error.
    pub fn into_error(mut self, tree: &Tree) -> Error {
        for fault in &mut self.0 {
            fault.at = fault.at.or_else(|| tree.locate(&fault.field));
        }
        self.0.sort_by_key(|fault| fault.at);
        Error::Document(
            self.0
                .into_iter()
                .map(|Fault { sentence, at, .. }| match at {
                    Some(at) => format!("{at}: {sentence}"),
                    None => sentence,
                })
                .collect(),
        )
    }
}

/// Whether `field` is `parent` or below it.
fn is_within(field: &str, parent: &str) -> bool {
    field.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']) || parent.is_empty())
}
