//! `provision`: scripts become numbered files, `boot` scripts become `bootcmd`s, `data` becomes files with a description.
//! The number is the place in the whole list, as in Lima, so that a failure names the entry of lima.yaml.

use std::path::Path;

use limafs_driver::{Blob, Config, Provision};
use serde_json::{Value, json};

use super::scripts::STEP;
use super::{Entry, Guest, agent, one_line, required};
use crate::error::{Error, Result};

/// A yq of the guest's own would be another program in each distribution, and in most none.
const YQ: &str =
    "`yq` needs the guest agent, which plain instances have not, or which was not found (contrib/build-agent makes it)";

/// A command line argument of Linux has at most 128 KiB.
const BOOT_SCRIPT_MAX: usize = 96 * 1024;

/// The files of all modes but `boot`, which cloud-init has, where there is one. Refuses the modes that are not run here.
/// `yq` is run by the guest agent.
pub fn entries(guest: &Guest) -> Result<Vec<Entry>> {
    let has_agent = agent(guest).is_some();
    let mut entries = Vec::new();
    for (index, item) in items(guest.config) {
        match mode(item) {
            "boot" if !guest.features.no_cloud_init => {}
            // The host runs a playbook when the boot is done.
            "ansible" => {}
            mode @ ("boot" | "dependency" | "system" | "user") => {
                entries.push(Entry::script(path(mode, index), script(index, item)?));
            }
            "data" => {
                let content = item.content.as_ref().map_or(&[][..], Blob::as_bytes);
                entries.push(Entry::file(path("data", index), content));
            }
            "yq" if has_agent => {
                let expression = text(index, "expression", item.expression.as_deref())?;
                entries.push(Entry::text(path("yq", index), expression));
            }
            "yq" => return Err(Error::unsupported(field(index, "mode"), YQ)),
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

/// Lines of lima.env that say where the files of `data` and `yq` are.
pub fn files_env(config: &Config) -> Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    for (index, item) in items(config).filter(|(_, item)| matches!(mode(item), "data" | "yq")) {
        let target = required(&field(index, "path"), item.path.as_deref())?;
        let owner = one_line(&field(index, "owner"), item.owner.as_deref().unwrap_or("root:root"))?;
        let permissions = item.permissions.as_deref().unwrap_or("644");
        if permissions.is_empty() || !permissions.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            return Err(Error::invalid(field(index, "permissions"), "must be octal digits"));
        }
        let overwrite = item.overwrite.unwrap_or(true).to_string();
        let (kind, first) = match mode(item) {
            "yq" => ("YQ_PROVISION", ("FORMAT", format(index, item, target)?)),
            _ => ("DATAFILE", ("OVERWRITE", &*overwrite)),
        };
        let fields = [first, ("OWNER", owner), ("PATH", target), ("PERMISSIONS", permissions)];
        lines.extend(fields.map(|(key, value)| (format!("{kind}_{index:08}_{key}"), value.to_owned())));
    }
    Ok(lines)
}

/// The format of a `yq` file, which the agent has to be able to write.
fn format(index: usize, item: &Provision, target: &str) -> Result<&'static str> {
    let ending = Path::new(target).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match item.format.as_deref().filter(|word| *word != "auto").unwrap_or(ending) {
        "json" => Ok("json"),
        "ini" => Ok("ini"),
        word @ ("csv" | "tsv" | "toml" | "xml" | "props" | "properties") => {
            let why = format!("`{word}` is not written by the guest agent, only yaml, json and ini");
            Err(Error::unsupported(field(index, "format"), why))
        }
        // Whatever name the file has.
        _ => Ok("yaml"),
    }
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
fn text<'a>(index: usize, name: &str, value: Option<&'a str>) -> Result<&'a str> {
    let value = value.filter(|text| !text.is_empty());
    let value = value.ok_or_else(|| Error::invalid(field(index, name), "must not be empty"))?;
    if value.contains('\0') {
        return Err(Error::invalid(field(index, name), "must not contain NUL"));
    }
    Ok(value)
}

fn script(index: usize, item: &Provision) -> Result<&[u8]> {
    let script = item.script.as_ref().filter(|script| !script.is_empty());
    let script = script.ok_or_else(|| Error::invalid(field(index, "script"), "must not be empty"))?;
    if script.as_str().is_some_and(|text| text.contains('\0')) {
        return Err(Error::invalid(field(index, "script"), "must not contain NUL"));
    }
    Ok(script.as_bytes())
}
