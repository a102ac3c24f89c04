//! Bytes to a document: what YAML forbids or what would exhaust this machine is refused here.

use limafs_driver::Config;
use serde_yaml::budget::BudgetBreach;

use super::layers::Layer;
use super::read::read;
use super::remarks::Remarks;
use super::tree::{NULL, Node, Position, Tree};
use crate::error::{Error, Result};

/// The largest document that is read.
pub const MOST_BYTES: usize = 1 << 20;

/// A document as it was written, with all that could not be read of it.
pub struct Parsed {
    pub layer: Layer,
    pub config: Config,
    pub tree: Tree,
    pub warnings: Remarks,
    pub faults: Remarks,
}

/// The schema's types of a document, and the remarks on what did not fit them. Fails where there is no document at all.
pub fn parse(text: &[u8], layer: Layer) -> Result<Parsed> {
    let (tree, text) = parse_tree(text, &layer.file())?;
    let reading = read::<Config>(&tree, text);
    let mut faults = Remarks::default();
    for misfit in reading.misfits {
        faults.add_at(misfit.field.clone(), layer, misfit.at, &misfit.why);
        faults.close_in(layer, misfit.field);
    }
    let Some(config) = reading.value else {
        return Err(Error::Document(faults.into_lines_of(layer)));
    };
    let mut warnings = Remarks::default();
    for key in reading.unknown {
        let meant = key.meant.map_or(String::new(), |meant| format!(" (did you mean {meant}?)"));
        warnings.add_at(key.field, layer, key.at, &format!("unknown key{meant}"));
    }
    Ok(Parsed { layer, config, tree, warnings, faults })
}

/// The values of a document that is called `file` in sentences, and its text without a byte order mark.
pub fn parse_tree<'a>(text: &'a [u8], file: &str) -> Result<(Tree, &'a str)> {
    if text.len() > MOST_BYTES {
        return Err(Error::TooBig { what: file.into(), limit: MOST_BYTES });
    }
    let refused = |why: String| Error::Document(vec![format!("{file}: {why}")]);
    let text = std::str::from_utf8(text).map_err(|error| refused(not_utf8(text, error.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok((tree(text, options()).map_err(refused)?, text))
}

/// The values of a text that we wrote, which may be longer than what we take from others.
pub fn own_tree(text: &str) -> std::result::Result<Tree, String> {
    let mut options = options();
    options.budget = None;
    tree(text, options)
}

fn not_utf8(text: &[u8], valid: usize) -> String {
    let before = &text[..valid];
    let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() as u64 + 1;
    format!("{}: not valid UTF-8", Position { line, column })
}

fn tree(text: &str, options: serde_yaml::Options) -> std::result::Result<Tree, String> {
    match serde_yaml::from_str_with_options::<Option<Tree>>(text, options) {
        Ok(tree) => Ok(tree.unwrap_or(Tree { node: Node::Null, at: NULL.at, source: 0..0 })),
        Err(error) => Err(sentence(error.without_snippet())),
    }
}

/// Lima's reading of YAML, within bounds that no honest document comes near.
fn options() -> serde_yaml::Options {
    let budget = serde_yaml::budget! {
        max_depth: 24,
        max_nodes: 20_000,
        max_events: 60_000,
        max_aliases: 1_000,
        max_anchors: 1_000,
        // One too many, so that the parser and not the budget says so.
        max_documents: 2,
        max_total_scalar_bytes: 4 << 20,
        max_recorded_anchor_bytes: 4 << 20,
        max_recorded_anchor_events: 20_000,
        max_merge_keys: 1_000,
    };
    let mut options = serde_yaml::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_yaml::options::NonFiniteFloatPolicy::AsString,
        ignore_binary_tag_for_string: true,
        with_snippet: false,
    };
    options.budget = budget;
    options
}

/// The parser's words as one of our sentences.
fn sentence(error: &serde_yaml::Error) -> String {
    let at = error.location().map(Position::from);
    let told = error.to_string();
    // The parser says the place too, but after the sentence.
    let told = told.split(" at line ").next().unwrap_or_default();
    let why = match error {
        serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{}: duplicate key", key.chars().take(100).collect::<String>())
        }
        serde_yaml::Error::MultipleDocuments { .. } => "more than one document in the file".into(),
        // Only keys are asked for as text here; values may be anything.
        serde_yaml::Error::NullIntoString { .. } | serde_yaml::Error::Unexpected { expected: "string scalar", .. } => {
            "a key must be text".into()
        }
        serde_yaml::Error::Budget { breach, .. } => excess(breach).into(),
        _ => told.to_owned(),
    };
    match at {
        Some(at) => format!("{at}: {why}"),
        None => why,
    }
}

/// Which of the bounds was hit.
fn excess(breach: &BudgetBreach) -> &'static str {
    match breach {
        BudgetBreach::Depth { .. } => "nested too deeply",
        BudgetBreach::ScalarBytes { .. } | BudgetBreach::RecordedAnchorBytes { .. } => "too much text behind aliases",
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::AliasAnchorRatio { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::MergeKeys { .. } => "too many anchors or aliases",
        _ => "too many values",
    }
}
