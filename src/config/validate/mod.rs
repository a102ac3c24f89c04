//! Lima's rules for a filled configuration, all faults together. What needs a driver, a disk or a network is not
//! looked at here: files may be missing, and a driver may refuse more.

mod forwards;
mod guest;
mod images;
mod machine;
mod mounts;
mod networks;
mod options;
mod params;
mod scripts;
pub mod version;

use limafs_driver::Config;

use super::remarks::Remarks;

/// Adds what is wrong with `filled`. `written` is the instance's own document before variables were expanded.
pub fn validate(written: &Config, filled: &Config, faults: &mut Remarks, warnings: &mut Remarks) {
    for rules in
        [machine::check, options::check, images::check, mounts::check, scripts::check, forwards::check, networks::check]
    {
        rules(filled, faults);
    }
    guest::check(filled, faults);
    params::check(written, filled, faults);
    scripts::warn(filled, warnings);
}

/// A fault unless `value` is one of `words`; a field without a value passes.
fn one_of(faults: &mut Remarks, field: &str, value: Option<&str>, words: &[&str]) {
    if let Some(value) = value.filter(|value| !words.contains(value)) {
        faults.add(field, format!("must be one of {}, not {value:?}", words.join(", ")));
    }
}

/// Text of a field; a field without a value is empty.
fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// These end up in files of lines and words, on the host or in the guest.
fn one_line(faults: &mut Remarks, field: &str, value: &str) {
    if value.contains(char::is_control) {
        faults.add(field, "must not contain control characters");
    }
}

/// Letters and digits in groups joined by single dots, dashes or underscores; at most 76 bytes.
fn identifier(faults: &mut Remarks, field: String, name: &str) {
    if name.is_empty() {
        faults.add(field, "identifier must not be empty");
    } else if name.len() > 76 {
        faults.add(field, "identifier must not have more than 76 characters");
    } else if !name
        .split(['.', '_', '-'])
        .all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        faults.add(
            field,
            format!(
                "identifier {name:?} must be letters and digits, in groups joined by single dots, dashes or underscores"
            ),
        );
    }
}

fn port(faults: &mut Remarks, field: String, port: i64) {
    let why = match port {
        ..0 => "must be > 0",
        0 => "must be set",
        22 => "must not be 22",
        65536.. => "must be < 65536",
        _ => return,
    };
    faults.add(field, why);
}
