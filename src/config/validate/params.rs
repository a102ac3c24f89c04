//! Parameters: each must be well named, printable and used.

use std::collections::BTreeSet;

use limafs_driver::Config;

use crate::config::remarks::Remarks;

/// Known to cloud-init's network configuration and not to any script.
const INTERNAL: &str = "internal_netplanOptional";

/// `filled` may have more parameters than the instance's own document, which others use.
pub fn check(written: &Config, filled: &Config, faults: &mut Remarks) {
    let Some(params) = filled.param.as_ref().filter(|params| !params.is_empty()) else { return };
    // One pass over the texts, not one for each name: a document may have thousands of both.
    let mut used = BTreeSet::new();
    texts(written).for_each(|text| collect(text, &mut used));
    for (name, value) in params {
        let field = format!("param.{}", name.escape_debug());
        let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !letter || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            faults.add(&field, format!("param name {name:?} does not match regex ^[a-zA-Z][a-zA-Z0-9_]*$"));
            continue;
        }
        let unprintable = |c: char| c != '\t' && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        if let Some(c) = value.chars().find(|c| unprintable(*c)) {
            faults.add(&field, format!("value contains unprintable character {c:?}"));
        }
        let own = written.param.as_ref().is_some_and(|params| params.contains_key(name));
        if own && name != INTERNAL && !used.contains(name.as_str()) {
            faults.add(&field, "not used in any provision, probe, copyToHost, or portForward");
        }
    }
}

/// All texts in which a parameter may be used.
fn texts(config: &Config) -> impl Iterator<Item = &str> {
    let provision =
        config.provision.iter().flatten().flat_map(|it| [&it.expression, &it.owner, &it.path, &it.permissions]);
    let scripts = config.provision.iter().flatten().flat_map(|it| [&it.script, &it.content]);
    let scripts = scripts.chain(config.probes.iter().flatten().map(|probe| &probe.script));
    let scripts = scripts.filter_map(|script| script.as_ref()?.as_str());
    let copies = config.copy_to_host.iter().flatten().flat_map(|copy| [&copy.guest, &copy.host]);
    let forwards = config.port_forwards.iter().flatten().flat_map(|rule| [&rule.guest_socket, &rule.host_socket]);
    let mounts = config.mounts.iter().flatten().flat_map(|mount| [&mount.location, &mount.mount_point]);
    let fields = provision.chain(copies).chain(forwards).chain(mounts);
    fields.filter_map(|text| text.as_deref()).chain(scripts)
}

/// Names behind `PARAM_` anywhere, or behind `.Param.` between double braces.
fn collect<'a>(text: &'a str, used: &mut BTreeSet<&'a str>) {
    for (at, prefix) in text.match_indices("PARAM_") {
        if !text[..at].ends_with(is_word) {
            used.insert(word(&text[at + prefix.len()..]));
        }
    }
    for rest in text.split("{{").skip(1) {
        let action = rest.split("}}").next().unwrap_or_default();
        used.extend(action.split(".Param.").skip(1).map(word));
    }
}

/// The letters, digits and underscores at the start.
fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
