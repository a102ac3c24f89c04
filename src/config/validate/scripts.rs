//! Provision entries, probes and files copied to the host.

use limafs_driver::{Blob, Config, Locator, Probe, Provision};

use super::{one_line, one_of, text};
use crate::config::remarks::Remarks;

const MODES: &[&str] = &["system", "user", "boot", "dependency", "data", "yq", "ansible"];
const FORMATS: &[&str] = &["auto", "csv", "ini", "json", "props", "tsv", "toml", "xml", "yaml"];

/// Operators of yq that reach beyond the document.
const DISABLED: &[&str] = &["env", "strenv", "envsubst", "load", "loadstr", "system"];

pub fn check(config: &Config, faults: &mut Remarks) {
    for (index, provision) in config.provision.iter().flatten().enumerate() {
        check_provision(&format!("provision[{index}]"), provision, faults);
    }
    for (index, probe) in config.probes.iter().flatten().enumerate() {
        check_probe(&format!("probes[{index}]"), probe, faults);
    }
    for (index, copy) in config.copy_to_host.iter().flatten().enumerate() {
        absolute(faults, format!("copyToHost[{index}].guest"), text(&copy.guest));
        absolute(faults, format!("copyToHost[{index}].host"), text(&copy.host));
    }
}

/// The variables of Lima's own boot scripts are not for a template's.
pub fn warn(config: &Config, warnings: &mut Remarks) {
    for (index, provision) in config.provision.iter().flatten().enumerate() {
        if provision.script.as_ref().and_then(Blob::as_str).is_some_and(|text| text.contains("LIMA_CIDATA")) {
            warnings.add(format!("provision[{index}].script"), "should not use LIMA_CIDATA variables");
        }
    }
}

fn check_provision(field: &str, provision: &Provision, faults: &mut Remarks) {
    embedded(faults, field, &provision.file);
    let mode = text(&provision.mode);
    one_of(faults, &format!("{field}.mode"), Some(mode), MODES);
    match mode {
        "data" => placed(field, provision, faults),
        "yq" => {
            placed(field, provision, faults);
            expression(&format!("{field}.expression"), text(&provision.expression), faults);
            one_of(faults, &format!("{field}.format"), provision.format.as_deref(), FORMATS);
        }
        // Whether this host may run it is for others to ask.
        "ansible" => absolute(faults, format!("{field}.playbook"), text(&provision.playbook)),
        _ if provision.script.as_ref().is_none_or(Blob::is_empty) => {
            faults.add(format!("{field}.script"), "must not be empty");
        }
        _ => {}
    }
    misplaced(field, provision, mode, faults);
}

/// Each mode's fields make no sense in another.
fn misplaced(field: &str, it: &Provision, mode: &str, faults: &mut Remarks) {
    let placed: &[&str] = &["data", "yq"];
    for (name, written, modes) in [
        ("content", it.content.is_some(), &["data"][..]),
        ("overwrite", it.overwrite.is_some(), &["data"]),
        ("owner", it.owner.is_some(), placed),
        ("path", it.path.is_some(), placed),
        ("permissions", it.permissions.is_some(), placed),
        ("format", it.format.is_some(), &["yq"]),
        ("expression", it.expression.is_some(), &["yq"]),
        ("playbook", it.playbook.is_some(), &["ansible"]),
        ("skipDefaultDependencyResolution", it.skip_default_dependency_resolution.is_some(), &["dependency"]),
    ] {
        if written && !modes.contains(&mode) {
            faults.add(format!("{field}.{name}"), format!("can only be set when mode is {}", modes.join(" or ")));
        }
    }
}

/// An expression is about the file that it is given, not about what surrounds the program that runs it.
fn expression(field: &str, text: &str, faults: &mut Remarks) {
    if text.is_empty() {
        return faults.must_be_set(field);
    }
    // Words outside of quotes that are no names of fields; within quotes, `\(` begins an expression again.
    let plain = text.replace("\\\\", "").replace("\\\"", "");
    let step = if plain.contains("\\(") { 1 } else { 2 };
    let bare = plain.split('"').step_by(step).collect::<Vec<_>>().join("\"");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || c == '.';
    for word in bare.split(|c| !is_word(c)) {
        let disabled = DISABLED.contains(&word) || word.starts_with("load_") || word.starts_with("$__");
        if disabled {
            faults.add(field, format!("{word} is disabled: no environment, file or program but the one at path"));
        }
    }
}

fn placed(field: &str, provision: &Provision, faults: &mut Remarks) {
    absolute(faults, format!("{field}.path"), text(&provision.path));
    one_line(faults, &format!("{field}.owner"), text(&provision.owner));
    let permissions = text(&provision.permissions);
    let octal = !permissions.is_empty() && permissions.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if !octal || u32::from_str_radix(permissions, 8).is_err() {
        faults.add(format!("{field}.permissions"), format!("must be an octal number such as 644, not {permissions:?}"));
    }
}

fn check_probe(field: &str, probe: &Probe, faults: &mut Remarks) {
    embedded(faults, field, &probe.file);
    one_of(faults, &format!("{field}.mode"), probe.mode.as_deref(), &["readiness"]);
    if !probe.script.as_ref().is_some_and(|script| script.as_bytes().starts_with(b"#!")) {
        faults.add(format!("{field}.script"), "must start with '#!'");
    }
}

/// A stored document stands alone: scripts in other files are embedded before.
fn embedded(faults: &mut Remarks, field: &str, file: &Option<Locator>) {
    let Some(Locator { url, digest }) = file else { return };
    if !url.is_empty() {
        faults.add(
            format!("{field}.file.url"),
            "must be empty in a stored document; write it through the tree, which puts the file in its place",
        );
    }
    if url.is_empty() && digest.is_some() {
        faults.add(format!("{field}.file.digest"), "makes no sense without the url of a file");
    }
}

fn absolute(faults: &mut Remarks, field: String, path: &str) {
    if path.is_empty() {
        faults.must_be_set(field);
    } else if !path.starts_with('/') {
        faults.add(field, format!("must be an absolute path, not {path:?}"));
    } else {
        one_line(faults, &field, path);
    }
}
