//! Parameters: each must be well named, printable and used.

use limafs_driver::Config;

use crate::config::remarks::Remarks;

/// Known to cloud-init's network configuration and not to any script.
const INTERNAL: &str = "internal_netplanOptional";

pub fn check(written: &Config, faults: &mut Remarks) {
    for (name, value) in written.param.iter().flatten() {
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
        if name != INTERNAL && !texts(written).any(|text| uses(text, name)) {
            faults.add(&field, "not used in any provision, probe, copyToHost, or portForward");
        }
    }
}

/// All texts in which a parameter may be used.
fn texts(config: &Config) -> impl Iterator<Item = &str> {
    let provision = config
        .provision
        .iter()
        .flatten()
        .flat_map(|it| [&it.script, &it.content, &it.expression, &it.owner, &it.path, &it.permissions]);
    let probes = config.probes.iter().flatten().map(|probe| &probe.script);
    let copies = config.copy_to_host.iter().flatten().flat_map(|copy| [&copy.guest, &copy.host]);
    let forwards = config.port_forwards.iter().flatten().flat_map(|rule| [&rule.guest_socket, &rule.host_socket]);
    let mounts = config.mounts.iter().flatten().flat_map(|mount| [&mount.location, &mount.mount_point]);
    provision.chain(probes).chain(copies).chain(forwards).chain(mounts).filter_map(|text| text.as_deref())
}

/// `PARAM_NAME` anywhere, or `.Param.NAME` between double braces.
fn uses(text: &str, name: &str) -> bool {
    has_word(text, &format!("PARAM_{name}"), true)
        || text.split("{{").skip(1).any(|rest| {
            let action = rest.split("}}").next().unwrap_or_default();
            has_word(action, &format!(".Param.{name}"), false)
        })
}

fn has_word(text: &str, word: &str, starts: bool) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = starts && text[..at].chars().next_back().is_some_and(inside);
        let after = text[at + word.len()..].chars().next().is_some_and(inside);
        !before && !after
    })
}
