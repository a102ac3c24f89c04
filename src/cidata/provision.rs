//! `provision`: scripts become numbered files, `boot` scripts become `bootcmd`s, `data` becomes files with a description.
//! The number is the place in the whole list, as in Lima, so that a failure names the entry of lima.yaml.

use limafs_driver::{Blob, Config, Provision};
use serde_json::{Value, json};

use super::scripts::STEP;
use super::{Entry, one_line, required};
use crate::error::{Error, Result};

/// A yq of the guest's own would be another program in each distribution, and in most none.
const YQ: &str = "`yq` needs the guest agent, which limafs does not put into guests yet; use `data` or `system`";
const ANSIBLE: &str = "`ansible` runs a playbook on this host, which limafs does not";

/// A command line argument of Linux has at most 128 KiB.
const BOOT_SCRIPT_MAX: usize = 96 * 1024;

/// The files of all modes but `boot`. Refuses the modes that are not run here.
pub fn entries(config: &Config) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (index, item) in items(config) {
        match mode(item) {
            "boot" => {}
            mode @ ("dependency" | "system" | "user") => {
                entries.push(Entry::script(path(mode, index), script(index, item)?));
            }
            "data" => {
                let content = item.content.as_ref().map_or(&[][..], Blob::as_bytes);
                entries.push(Entry::file(path("data", index), content));
            }
            "yq" => return Err(Error::unsupported(field(index, "mode"), YQ)),
            "ansible" => return Err(Error::unsupported(field(index, "mode"), ANSIBLE)),
            mode => return Err(Error::invalid(field(index, "mode"), format!("`{mode}` is unknown"))),
        }
    }
    Ok(entries)
}

/// `bootcmd` entries for the `boot` scripts, each in a shell of its own.
pub fn bootcmds(config: &Config) -> Result<Vec<Value>> {
    let params = super::env::params(config)?;
    let mut commands = Vec::new();
    for (index, item) in items(config).filter(|(_, item)| mode(item) == "boot") {
        let script = std::str::from_utf8(script(index, item)?)
            .map_err(|_| Error::invalid(field(index, "script"), "a boot script is text, use mode system"))?;
        if script.len() > BOOT_SCRIPT_MAX {
            let why = format!("a boot script has at most {BOOT_SCRIPT_MAX} bytes, use mode system");
            return Err(Error::invalid(field(index, "script"), why));
        }
        let mut command = vec!["env".to_owned()];
        command.extend(params.iter().cloned());
        command.extend(["sh", "-c", STEP, &path("boot", index), script].map(str::to_owned));
        commands.push(json!(command));
    }
    Ok(commands)
}

/// Lines of lima.env that say where the `data` files go.
pub fn data_env(config: &Config) -> Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    for (index, item) in items(config).filter(|(_, item)| mode(item) == "data") {
        let target = required(&field(index, "path"), item.path.as_deref())?;
        let owner = one_line(&field(index, "owner"), item.owner.as_deref().unwrap_or("root:root"))?;
        let permissions = item.permissions.as_deref().unwrap_or("644");
        if permissions.is_empty() || !permissions.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            return Err(Error::invalid(field(index, "permissions"), "must be octal digits"));
        }
        let overwrite = item.overwrite.unwrap_or(true).to_string();
        let fields = [("OVERWRITE", &*overwrite), ("OWNER", owner), ("PATH", target), ("PERMISSIONS", permissions)];
        lines.extend(fields.map(|(key, value)| (format!("DATAFILE_{index:08}_{key}"), value.to_owned())));
    }
    Ok(lines)
}

/// Whether a `dependency` script says that it brings all that is needed.
pub fn skips_packages(config: &Config) -> bool {
    items(config).any(|(_, item)| mode(item) == "dependency" && item.skip_default_dependency_resolution == Some(true))
}

fn items(config: &Config) -> impl Iterator<Item = (usize, &Provision)> {
    config.provision.iter().flatten().enumerate()
}

fn mode(item: &Provision) -> &str {
    item.mode.as_deref().unwrap_or("system")
}

fn path(mode: &str, index: usize) -> String {
    format!("provision.{mode}/{index:08}")
}

fn field(index: usize, name: &str) -> String {
    format!("provision[{index}].{name}")
}

/// A script; in text NUL is refused, because no command line, shell or cloud-config could carry it.
fn script(index: usize, item: &Provision) -> Result<&[u8]> {
    let script = item.script.as_ref().filter(|script| !script.is_empty());
    let script = script.ok_or_else(|| Error::invalid(field(index, "script"), "must not be empty"))?;
    if script.as_str().is_some_and(|text| text.contains('\0')) {
        return Err(Error::invalid(field(index, "script"), "must not contain NUL"));
    }
    Ok(script.as_bytes())
}
