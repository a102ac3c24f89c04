//! A changed value written back into the text that it was read from, so that comments and layout stay.
//!
//! Blocks of YAML are lines: an entry reaches from its key to the next key of that depth. What is written otherwise (in
//! braces, behind an alias) is replaced whole. Whatever was edited is read back and compared: a text that does not say
//! exactly what it should is never returned.

use serde_json::{Map, Value};

use super::{render, value};
use crate::config::parse::parse_tree;
use crate::config::tree::{Entry, Node, Position, Tree};
use crate::error::{Error, Result};
use crate::names::LIMA_YAML;

/// Turns `text`, which says `old`, into one that says `new`.
pub fn splice(text: &str, tree: &Tree, old: &Value, new: &Value) -> Result<String> {
    let says_new = |text: &String| match parse_tree(text.as_bytes(), LIMA_YAML) {
        // Nothing is left where there was nothing but `base`.
        Ok((Tree { node: Node::Null, .. }, _)) => new.as_object().is_some_and(Map::is_empty),
        Ok((tree, text)) => value::of(&tree, text) == *new,
        Err(_) => false,
    };
    let edited = edit(text, tree, old, new).filter(says_new);
    edited.or_else(|| Some(rewrite(text, new)).filter(says_new)).ok_or_else(|| {
        Error::failed(LIMA_YAML, "what it is built upon cannot be written into it; write plain blocks without anchors")
    })
}

/// The whole document anew, below the comment that it begins with.
fn rewrite(text: &str, new: &Value) -> String {
    let head = text.lines().take_while(|line| is_remark(line)).map(|line| format!("{line}\n"));
    let entries = new.as_object().into_iter().flatten().map(|(key, value)| render::entry(key, value, 0));
    head.chain(entries).collect()
}

fn edit(text: &str, tree: &Tree, old: &Value, new: &Value) -> Option<String> {
    let mut editor = Editor { lines: text.split_inclusive('\n').collect(), edits: Vec::new() };
    let whole = editor.lines.len();
    let new = new.as_object()?;
    match (&tree.node, old) {
        (Node::Map(entries), Value::Object(old)) => editor.map("", entries, old, new, 0..whole)?,
        _ => return None,
    }
    Some(editor.apply())
}

type Lines = std::ops::Range<usize>;
type Fields = Map<String, Value>;

struct Editor<'a> {
    lines: Vec<&'a str>,
    /// Lines and what comes in their place.
    edits: Vec<(Lines, String)>,
}

impl Editor<'_> {
    fn map(&mut self, path: &str, entries: &[Entry], old: &Fields, new: &Fields, within: Lines) -> Option<()> {
        let indent = entries.first()?.at.column as usize - 1;
        let regions = self.regions(entries.iter().map(|entry| entry.at), indent, within)?;
        let begins = |(index, lines): (usize, &Lines)| self.begins_entry(lines.start, indent, index == 0);
        let aligned = entries.iter().all(|entry| entry.at.column as usize - 1 == indent);
        if !aligned || !regions.iter().enumerate().all(begins) {
            return None;
        }
        let end = regions.last()?.end;
        let mut added: Vec<_> = new.iter().filter(|(key, _)| !old.contains_key(*key)).collect();
        for (entry, lines) in entries.iter().zip(regions) {
            match (old.get(&entry.key)?, new.get(&entry.key)) {
                (old, Some(new)) if old == new => {}
                (old, Some(new)) => {
                    let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    let text = || render::entry(&entry.key, new, indent);
                    self.change(&path, &entry.value, old, new, lines, indent, text);
                }
                // A key that takes another's place.
                (_, None) if !path.is_empty() && !added.is_empty() => {
                    let (key, value) = added.remove(0);
                    self.replace(lines, indent, render::entry(key, value, indent));
                }
                (_, None) if self.head(lines.start, indent).trim().is_empty() => {
                    self.edits.push((lines, String::new()))
                }
                (_, None) => return None,
            }
        }
        let text = added.iter().map(|(key, value)| " ".repeat(indent) + &render::entry(key, value, indent));
        self.insert(end, text.collect());
        Some(())
    }

    /// Changes within a value; nothing where its text is no block.
    fn value(&mut self, path: &str, tree: &Tree, old: &Value, new: &Value, lines: Lines) -> Option<()> {
        let opening = self.lines.get(tree.at.line as usize - 1)?.chars().nth(tree.at.column as usize - 1);
        match (&tree.node, old, new) {
            _ if matches!(opening, Some('{' | '[')) => None,
            (Node::Map(entries), Value::Object(old), Value::Object(new)) => self.map(path, entries, old, new, lines),
            (Node::List(items), Value::Array(old), Value::Array(new)) => self.list(path, items, old, new, lines),
            _ => None,
        }
    }

    fn list(&mut self, path: &str, items: &[Tree], old: &[Value], new: &[Value], within: Lines) -> Option<()> {
        let dash = |item: &Tree| self.dash(item.at.line as usize - 1, item.at.column as usize - 1);
        let indent = dash(items.first()?)?;
        if !items.iter().all(|item| dash(item) == Some(indent)) {
            return None;
        }
        let key = within.start;
        let regions = self.regions(items.iter().map(|item| item.at), indent, within)?;
        let end = regions.last()?.end;
        let more = new.len().checked_sub(old.len())?;
        let before = if matches!(path, "provision" | "probes") { more } else { 0 };
        let text = |values: &[Value]| -> String {
            values.iter().map(|value| " ".repeat(indent) + &render::item(value, indent)).collect()
        };
        self.insert(key + 1, text(&new[..before]));
        for (index, (item, lines)) in items.iter().zip(regions).enumerate() {
            let (old, new) = (&old[index], &new[before + index]);
            if old != new {
                self.change("[]", item, old, new, lines, indent, || render::item(new, indent));
            }
        }
        self.insert(end, text(&new[before + old.len()..]));
        Some(())
    }

    /// Changes a value within its lines, or where that cannot be done replaces all of them by `text`.
    #[allow(clippy::too_many_arguments, reason = "they are one entry, before and after")]
    fn change(
        &mut self,
        path: &str,
        tree: &Tree,
        old: &Value,
        new: &Value,
        lines: Lines,
        indent: usize,
        text: impl Fn() -> String,
    ) {
        let edits = self.edits.len();
        if self.value(path, tree, old, new, lines.clone()).is_none() {
            self.edits.truncate(edits);
            self.replace(lines, indent, text());
        }
    }

    /// The lines of each entry; nothing where two share a line or one is elsewhere.
    fn regions(&self, at: impl Iterator<Item = Position>, indent: usize, within: Lines) -> Option<Vec<Lines>> {
        let starts: Vec<usize> = at.map(|at| at.line as usize - 1).collect();
        let regular = starts.is_sorted_by(|a, b| a < b) && starts.iter().all(|start| within.contains(start));
        let ends = starts.iter().skip(1).copied().chain([within.end]);
        let lines = |(start, end): (&usize, usize)| *start..self.trimmed(*start..end, indent);
        regular.then(|| starts.iter().zip(ends).map(lines).collect())
    }

    /// Whether the text before a key is indentation alone, or for a list's first key dashes too.
    fn begins_entry(&self, line: usize, indent: usize, first: bool) -> bool {
        let head = self.head(line, indent);
        head.len() == indent && head.bytes().all(|byte| byte == b' ' || first && byte == b'-')
    }

    /// The column of the dash before an item.
    fn dash(&self, line: usize, column: usize) -> Option<usize> {
        let head = self.head(line, column).trim_end_matches(' ');
        let indent = head.strip_suffix('-')?;
        indent.bytes().all(|byte| byte == b' ').then_some(indent.len())
    }

    /// The first bytes of a line.
    fn head(&self, line: usize, length: usize) -> &str {
        self.lines.get(line).and_then(|line| line.get(..length)).unwrap_or_default()
    }

    /// The end of an entry without the comments that belong to what follows.
    fn trimmed(&self, lines: Lines, indent: usize) -> usize {
        let is_next =
            |line: &str| is_remark(line) && (line.trim().is_empty() || line.find('#').is_some_and(|at| at <= indent));
        let kept = self.lines[lines.clone()].iter().rposition(|line| !is_next(line));
        lines.start + kept.map_or(1, |kept| kept + 1)
    }

    /// Comments in what was written in braces or beside it come to stand above what replaces it.
    fn replace(&mut self, lines: Lines, indent: usize, text: String) {
        let head = self.head(lines.start, indent).to_owned();
        let old = &self.lines[lines.clone()];
        let is_flow = old.iter().any(|line| line.trim_end().contains(['{', '[']))
            && !old.iter().any(|line| line.contains(['|', '>']));
        let comments = old.iter().filter(|_| is_flow || old.len() == 1).filter_map(|line| comment(line));
        let depth = head.find('-').unwrap_or(indent);
        let comments: String =
            comments.map(|comment| format!("{}{}\n", " ".repeat(depth), comment.trim_end())).collect();
        self.edits.push((lines, comments + &head + &text));
    }

    fn insert(&mut self, line: usize, text: String) {
        if !text.is_empty() {
            self.edits.push((line..line, text));
        }
    }

    fn apply(mut self) -> String {
        // Stable: what is put in one place stays in order. An insertion comes before what replaces the lines behind it.
        self.edits.sort_by_key(|(lines, _)| (lines.start, lines.end));
        let mut text = String::new();
        let mut next = 0;
        for (lines, new) in self.edits {
            text.extend(self.lines[next..lines.start.max(next)].iter().copied());
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&new);
            next = lines.end.max(next);
        }
        text.extend(self.lines[next..].iter().copied());
        text
    }
}

/// The comment at the end of a line.
fn comment(line: &str) -> Option<&str> {
    let quotes_close = |text: &str| ['"', '\''].iter().all(|quote| text.matches(*quote).count() % 2 == 0);
    let starts = line.match_indices('#').map(|(at, _)| at);
    let mut starts = starts.filter(|at| line[..*at].ends_with([' ', '\t']) || line[..*at].is_empty());
    starts.find(|at| quotes_close(&line[..*at])).map(|at| &line[at..])
}

/// An empty line or a comment.
fn is_remark(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}
