//! Provision entries and probes.

use limafs_driver::{Blob, Config, Probe, Provision};

use super::default;
use crate::config::expand::Expander;
use crate::config::remarks::Remarks;

pub fn fill(config: &mut Config, expand: &Expander, warnings: &mut Remarks) {
    let group = if matches!(config.os.as_deref(), Some("Darwin" | "FreeBSD")) { "wheel" } else { "root" };
    for (index, provision) in config.provision.get_or_insert_default().iter_mut().enumerate() {
        defaults(provision, group);
        let field = |name: &str| format!("provision[{index}].{name}");
        let Provision { script, content, expression, owner, path, .. } = provision;
        for (name, text) in [("expression", expression), ("owner", owner), ("path", path)] {
            if let Some(text) = text {
                *text = expand.guest(&field(name), text, warnings);
            }
        }
        for (name, blob) in [("script", script), ("content", content)] {
            expand_text(blob, &field(name), expand, warnings);
        }
    }
    let probes = config.probes.get_or_insert_default();
    let count = probes.len();
    for (index, Probe { mode, description, script, .. }) in probes.iter_mut().enumerate() {
        default(mode, "readiness".into());
        if description.as_deref().unwrap_or_default().is_empty() {
            *description = Some(format!("user probe {}/{count}", index + 1));
        }
        expand_text(script, &format!("probes[{index}].script"), expand, warnings);
    }
}

/// What is no text has no variables.
fn expand_text(blob: &mut Option<Blob>, field: &str, expand: &Expander, warnings: &mut Remarks) {
    if let Some(text) = blob.as_ref().and_then(Blob::as_str) {
        *blob = Some(expand.guest(field, text, warnings).into());
    }
}

/// Each mode has fields of its own; the others' stay unset, so that validation sees when they were written.
fn defaults(provision: &mut Provision, group: &str) {
    match provision.mode.get_or_insert_with(|| "system".into()).as_str() {
        "dependency" => default(&mut provision.skip_default_dependency_resolution, false),
        "data" => {
            default(&mut provision.content, Blob::default());
            default(&mut provision.overwrite, true);
            placed(provision, group);
        }
        "yq" => {
            default(&mut provision.format, "auto".into());
            placed(provision, group);
        }
        _ => {}
    }
}

fn placed(provision: &mut Provision, group: &str) {
    default(&mut provision.owner, format!("root:{group}"));
    default(&mut provision.permissions, "644".into());
}
