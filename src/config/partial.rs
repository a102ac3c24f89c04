//! Documents that are parts of others: templates and bases.

use super::layers::Layer;
use super::parse::{Parsed, parse};
use super::tree::{Node, Tree};
use crate::error::{Error, Result};

/// Whether a document fits the schema. Fields may be missing, and what only a whole lima.yaml can be asked is not asked.
/// The sentences name no file: the document is called as its caller knows it.
pub fn check(text: &[u8]) -> Result<()> {
    match read(text)?.node {
        Node::Null => Err(Error::Document(vec!["there is nothing in it".into()])),
        _ => Ok(()),
    }
}

/// The same for one that applies to every instance, all of whose lines may be comments.
pub fn check_layer(text: &[u8]) -> Result<()> {
    read(text).map(drop)
}

fn read(text: &[u8]) -> Result<Tree> {
    let Parsed { tree, faults, .. } = parse(text, Layer::Written).map_err(nameless)?;
    if faults.is_empty() { Ok(tree) } else { Err(nameless(Error::Document(faults.into_lines_of(Layer::Written)))) }
}

fn nameless(error: Error) -> Error {
    let prefix = format!("{}: ", Layer::Written.file());
    match error {
        Error::Document(lines) => Error::Document(
            lines.into_iter().map(|line| line.strip_prefix(&prefix).unwrap_or(&line).to_owned()).collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_may_be_comments_alone() {
        check_layer(b"# cpus: 2\n").unwrap();
        let error = check_layer(b"# cpus\ncpus: many\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2, column 7: cpus"), "{error}");
    }

    #[test]
    fn a_part_needs_no_image_but_fits_the_schema() {
        for good in ["cpus: 2\n", "base: template:local\n", "mounts: [{location: '{{.Dir}}/x'}]\n", "{}\n", "own: 1\n"]
        {
            check(good.as_bytes()).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for (bad, words) in [
            ("cpus: many\n", "line 1, column 7: cpus"),
            ("- cpus\n", "expected a map"),
            ("hello\n", "expected a map"),
            ("cpus: [\n", "line "),
            ("", "nothing in it"),
            ("# nothing\n", "nothing in it"),
        ] {
            let error = check(bad.as_bytes()).unwrap_err();
            assert_eq!(error.errno(), libc::EINVAL);
            assert!(error.to_string().contains(words), "{bad:?}: {error}");
        }
    }
}
