//! Documents of another schema than lima.yaml's, read by the same rules and within the same bounds.

use serde::de::DeserializeOwned;

use super::parse::parse_tree;
use super::read::read;
use super::tree::{Position, Tree};
use crate::error::{Error, Result};

/// In characters. A sentence quotes what was written, which may be long.
const LONGEST_LINE: usize = 400;

/// A document as values, and where each of them is written.
#[derive(Debug)]
pub struct Document<T> {
    pub value: T,
    tree: Tree,
    file: &'static str,
}

impl<T: DeserializeOwned> Document<T> {
    /// Reads a document that is called `file` in sentences. Keys that `T` does not have are passed over; all values
    /// that do not fit are told together.
    pub fn read(text: &[u8], file: &'static str) -> Result<Self> {
        let (tree, text) = parse_tree(text, file)?;
        let reading = read::<T>(&tree, text);
        match reading.value {
            Some(value) if reading.misfits.is_empty() => Ok(Self { value, tree, file }),
            _ => {
                let told = |misfit: super::read::Misfit| line(file, Some(misfit.at), &misfit.field, &misfit.why);
                Err(Error::Document(reading.misfits.into_iter().map(told).collect()))
            }
        }
    }

    /// A sentence on a field of it, with its place.
    pub fn fault(&self, field: &str, why: &str) -> String {
        line(self.file, self.tree.locate(field).0, field, why)
    }
}

fn line(file: &str, at: Option<Position>, field: &str, why: &str) -> String {
    let place = at.map_or(String::new(), |at| format!("{at}: "));
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    let mut line = format!("{file}: {place}{field}{why}");
    if let Some((end, _)) = line.char_indices().nth(LONGEST_LINE) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Numbers = BTreeMap<String, BTreeMap<String, u8>>;

    #[test]
    fn every_misfit_is_told_with_its_place() {
        let error = Document::<Numbers>::read(b"a:\n  x: 1\n  y: 300\nb: 2\n", "f.yaml").unwrap_err();
        let told = "f.yaml: line 3, column 6: a.y: invalid number 300 (0 to 255)\n\
                    f.yaml: line 4, column 4: b: expected a map, not a number";
        assert_eq!(error.to_string(), told);
        let error = Document::<Numbers>::read(b"a: [\n", "f.yaml").unwrap_err().to_string();
        assert!(error.starts_with("f.yaml: line "), "{error}");
    }

    #[test]
    fn a_fault_found_later_has_its_place() {
        let document = Document::<Numbers>::read(b"a:\n  x: 1\n", "f.yaml").unwrap();
        assert_eq!(document.fault("a.x", "is odd"), "f.yaml: line 2, column 3: a.x: is odd");
        assert_eq!(document.fault("b", "is missing"), "f.yaml: b: is missing");
        assert_eq!(document.fault("b", &"x".repeat(9999)).len(), LONGEST_LINE + 3);
    }
}
