//! Changes one top-level value of a lima.yaml and leaves every other byte as it was written: comments, order, spacing.
//! Never guesses: the result is read again, and refused unless that value and nothing else has changed.

use super::layers::Layer;
use super::parse::{Parsed, parse};
use super::tree::{Entry, Node, Position, Tree};
use crate::error::{Error, Result};

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// `text` with the top-level `key` set to the scalar `value`. A quoted value stays quoted, an anchor stays; a key that is
/// not there is added behind the others. Refuses what cannot be done safely (an alias, several lines, a tag) with
/// `Error::Invalid`, and a text that is no document with the parser's sentences.
pub fn set(text: &str, key: &str, value: &str) -> Result<String> {
    let body = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mark = &text[..text.len() - body.len()];
    let Parsed { tree, .. } = parse(body.as_bytes(), Layer::Written)?;
    let edited = match &tree.node {
        Node::Null => append(body, "", key, value)?,
        Node::Map(entries) => match entries.iter().find(|entry| entry.key == key) {
            Some(entry) => replace(body, entry, value)?,
            None => insert(body, &tree, entries, key, value)?,
        },
        _ => return Err(by_hand(key, "lima.yaml is no map")),
    };
    match parse(edited.as_bytes(), Layer::Written) {
        Ok(Parsed { tree: new, .. }) if differs_only_in(key, value, &tree, &new) => Ok(format!("{mark}{edited}")),
        _ => Err(by_hand(key, "more than this value would change in lima.yaml")),
    }
}

fn by_hand(key: &str, why: &str) -> Error {
    Error::invalid(key, format!("{why}; edit lima.yaml itself"))
}

/// Puts the value in the place of the one that is there.
fn replace(body: &str, entry: &Entry, value: &str) -> Result<String> {
    let key = entry.key.as_str();
    let behind = behind_colon(body, entry).ok_or_else(|| by_hand(key, "it is not written as KEY: VALUE"))?;
    let range = match &entry.value.node {
        Node::List(_) | Node::Map(_) => return Err(by_hand(key, "it is not one value")),
        _ => entry.value.source.clone(),
    };
    let written = body.get(range.clone()).unwrap_or_default().trim_end();
    if matches!(entry.value.node, Node::Null) && written.is_empty() {
        return Ok(format!("{} {}{}", &body[..behind], scalar(key, value)?, &body[behind..]));
    }
    let before = body.get(behind..range.start).ok_or_else(|| by_hand(key, "its value is an alias"))?.trim();
    // A block scalar's indicator stands before what is in it.
    if written.contains('\n') || before.contains(['|', '>', '\n']) {
        return Err(by_hand(key, "its value is written over several lines"));
    }
    if !(before.is_empty() || before.starts_with('&') && !before.contains(char::is_whitespace)) {
        return Err(by_hand(key, "there is more than an anchor before its value"));
    }
    let new = match written.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(key, value, quote)?,
        _ => scalar(key, value)?,
    };
    Ok(format!("{}{new}{}", &body[..range.start], &body[range.start + written.len()..]))
}

/// Where the colon of `KEY:` ends, when the key is written like that.
fn behind_colon(body: &str, entry: &Entry) -> Option<usize> {
    let start = offset(body, entry.at)?;
    let rest = &body[start..];
    let forms = [entry.key.clone(), format!("\"{}\"", entry.key), format!("'{}'", entry.key)];
    let rest = forms.iter().find_map(|form| rest.strip_prefix(form.as_str()))?;
    let rest = rest.trim_start_matches([' ', '\t']).strip_prefix(':')?;
    Some(body.len() - rest.len())
}

fn offset(body: &str, at: Position) -> Option<usize> {
    let (line, column) = (usize::try_from(at.line).ok()?.checked_sub(1)?, usize::try_from(at.column).ok()?);
    let start: usize = body.split_inclusive('\n').take(line).map(str::len).sum();
    let (within, _) = body.get(start..)?.char_indices().nth(column.checked_sub(1)?)?;
    Some(start + within)
}

/// Adds a key that is not there.
fn insert(body: &str, root: &Tree, entries: &[Entry], key: &str, value: &str) -> Result<String> {
    let start = root.source.start;
    if !body.get(start..).is_some_and(|rest| rest.starts_with('{')) {
        let column = entries.first().map_or(1, |entry| entry.at.column);
        return append(body, &" ".repeat(column.saturating_sub(1) as usize), key, value);
    }
    // Right behind the brace: what is at the other end may be a comma or a comment.
    let (before, after) = body.split_at(start + 1);
    let pair = format!("{key}: {}", scalar(key, value)?);
    Ok(if entries.is_empty() {
        format!("{before}{pair}{after}")
    } else if after.starts_with(char::is_whitespace) {
        format!("{before} {pair},{after}")
    } else {
        format!("{before}{pair}, {after}")
    })
}

/// Adds a line at the document's end.
fn append(body: &str, indent: &str, key: &str, value: &str) -> Result<String> {
    let newline = if body.contains("\r\n") { "\r\n" } else { "\n" };
    let is_end = |line: &&str| line.strip_prefix("...").is_some_and(|rest| rest.trim_start().len() < rest.len());
    let end: usize = body.split_inclusive('\n').take_while(|line| !is_end(line) && *line != "...").map(str::len).sum();
    let (before, after) = body.split_at(end);
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { newline };
    Ok(format!("{before}{gap}{indent}{key}: {}{newline}{after}", scalar(key, value)?))
}

/// A value as YAML: plain where that is read as it is meant.
fn scalar(key: &str, value: &str) -> Result<String> {
    let is_plain =
        value.starts_with(|c: char| c.is_ascii_digit()) && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    // `010` and `0x1f` are numbers of another base.
    if is_plain && (value.len() == 1 || !value.starts_with('0')) {
        Ok(value.to_owned())
    } else {
        quoted(key, value, '"')
    }
}

fn quoted(key: &str, value: &str, quote: char) -> Result<String> {
    if value.contains(['"', '\'', '\\']) || value.contains(char::is_control) {
        return Err(Error::invalid(key, "takes no quotes, backslashes and control characters"));
    }
    Ok(format!("{quote}{value}{quote}"))
}

/// Whether `new` is `old` with `key` set to `value`.
fn differs_only_in(key: &str, value: &str, old: &Tree, new: &Tree) -> bool {
    let (old, new) = (entries(old), entries(new));
    let others = |entry: &&Entry| entry.key != key;
    let is_set = |entry: &Entry| match &entry.value.node {
        Node::Text(text) => text == value,
        Node::Int(number) => number.to_string() == value,
        Node::Float(number) => number.to_string() == value,
        _ => false,
    };
    same_entries(old.iter().filter(others), new.iter().filter(others))
        && new.iter().filter(|entry| entry.key == key).map(is_set).eq([true])
}

fn same_entries<'a>(mut old: impl Iterator<Item = &'a Entry>, mut new: impl Iterator<Item = &'a Entry>) -> bool {
    loop {
        match (old.next(), new.next()) {
            (None, None) => return true,
            (Some(old), Some(new)) if old.key == new.key && same(&old.value.node, &new.value.node) => {}
            _ => return false,
        }
    }
}

fn same(old: &Node, new: &Node) -> bool {
    match (old, new) {
        (Node::Null, Node::Null) => true,
        (Node::Bool(old), Node::Bool(new)) => old == new,
        (Node::Int(old), Node::Int(new)) => old == new,
        (Node::Float(old), Node::Float(new)) => old == new,
        (Node::Text(old), Node::Text(new)) => old == new,
        (Node::Bytes(old), Node::Bytes(new)) => old == new,
        (Node::List(old), Node::List(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(&old.node, &new.node))
        }
        (Node::Map(old), Node::Map(new)) => same_entries(old.iter(), new.iter()),
        _ => false,
    }
}

fn entries(tree: &Tree) -> &[Entry] {
    match &tree.node {
        Node::Map(entries) => entries,
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
