//! Fields that Lima has renamed: read at their old place, moved to the new one, warned of.

use limafs_driver::{Config, Rosetta};
use serde_json::{Map, Value};

use super::remarks::Remarks;

pub fn move_fields(config: &mut Config, warnings: &mut Remarks) {
    if let Some(types) = config.cpu_type.take().filter(|types| !types.is_empty()) {
        let types = types.into_iter().map(|(arch, word)| (arch, Value::String(word))).collect();
        move_to(config, "qemu", "cpuType", types);
        warnings.add("cpuType", "deprecated, use vmOpts.qemu.cpuType");
    }
    if let Some(rosetta) = config.rosetta.take().filter(|rosetta| *rosetta != Rosetta::default()) {
        let fields = [("enabled", rosetta.enabled), ("binfmt", rosetta.bin_fmt)];
        let fields = fields.into_iter().filter_map(|(name, switch)| Some((name.to_owned(), Value::Bool(switch?))));
        move_to(config, "vz", "rosetta", fields.collect());
        warnings.add("rosetta", "deprecated, use vmOpts.vz.rosetta");
    }
}

/// What is written at the new place wins.
fn move_to(config: &mut Config, driver: &str, option: &str, fields: Map<String, Value>) {
    let options = config.vm_opts.get_or_insert_default().entry(driver.to_owned()).or_insert(Value::Null);
    if options.is_null() {
        *options = Value::Object(Map::new());
    }
    let Value::Object(options) = options else { return };
    let place = options.entry(option).or_insert(Value::Null);
    if place.is_null() {
        *place = Value::Object(Map::new());
    }
    if let Value::Object(place) = place {
        for (name, value) in fields {
            place.entry(name).or_insert(value);
        }
    }
}
