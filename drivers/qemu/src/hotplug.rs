//! Processors and memory that a running VM is given, where its machine type can: room that is left for them on the
//! command line, adding them, and finding them again.

use std::thread::available_parallelism;

use limafs_driver::{Error, Instance, Result};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::vm::Running;

/// What the room for more memory begins with costs a smaller guest its bounce buffers, 64 MiB of it; a larger one has
/// them anyway: q35 puts what is beyond this above 4 GiB.
const ROOM_FROM_MIB: u64 = 2816;
const SLOTS: usize = 8;
/// What Linux takes up at once.
const BLOCK: u64 = 128 << 20;
/// Marks what was added.
const CPU: &str = "limafs-cpu-";
const MEMORY: &str = "limafs-memory-";
const BACKEND: &str = "limafs-ram-";

/// How many processors may be plugged in. Room costs a guest some 260 KiB a processor, hence not for all of a large host.
pub(crate) fn max_cpus(machine: &Machine, cpus: u32) -> u32 {
    if machine.arch != "x86_64" {
        return cpus;
    }
    let host = available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    cpus.max(host.max(4).min(cpus.saturating_mul(4)))
}

/// For `-smp`: one socket, as ever.
pub(crate) fn smp(cpus: u32, max: u32) -> String {
    match max > cpus {
        true => format!("{cpus},maxcpus={max},sockets=1,cores={max},threads=1"),
        false => format!("{cpus},sockets=1,cores={cpus},threads=1"),
    }
}

/// For `-m`.
pub(crate) fn memory(machine: &Machine, mib: u64) -> String {
    match machine.arch == "x86_64" && mib >= ROOM_FROM_MIB {
        true => format!("{mib},slots={SLOTS},maxmem={}M", mib.saturating_mul(4)),
        false => mib.to_string(),
    }
}

/// Whether the value of an option is something that was added.
pub(crate) fn is_added(value: &str) -> bool {
    [CPU, MEMORY, BACKEND].iter().any(|id| value.contains(&format!("id={id}")))
}

/// What has been added to a running VM, as options.
pub(crate) async fn added(running: &Running) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for device in memory_devices(running).await? {
        let data = &device["data"];
        let (Some(id), Some(addr)) = (data["id"].as_str(), data["addr"].as_u64()) else { continue };
        let Some(backend) = data["memdev"].as_str().and_then(|path| path.strip_prefix("/objects/")) else { continue };
        let object = format!("{},id={backend},size={}", backend_kind(running), data["size"]);
        let dimm = format!("pc-dimm,id={id},memdev={backend},slot={},addr={addr}", data["slot"]);
        options.extend(["-object".into(), object, "-device".into(), dimm]);
    }
    for cpu in cpus(running).await? {
        let path = cpu["qom-path"].as_str().unwrap_or_default();
        let Some(id) = path.strip_prefix("/machine/peripheral/") else { continue };
        let place = place(&cpu);
        let place: Vec<String> = place.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let kind = cpu["type"].as_str().unwrap_or_default();
        options.extend(["-device".into(), format!("{kind},id={id},{}", place.join(","))]);
    }
    let here: Vec<String> =
        running.process.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // One that a start went on with has them among its arguments.
    let pairs = options.chunks(2).filter(|pair| !here.contains(&pair[1]));
    Ok(pairs.flatten().cloned().collect())
}

/// Gives a running VM so many processors and so much memory; refuses first what cannot be.
pub(crate) async fn resize(running: &Running, instance: &Instance, cpus: u32, memory: u64) -> Result<()> {
    let all = self::cpus(running).await?;
    let plugged = all.iter().filter(|cpu| cpu.get("qom-path").is_some()).count();
    let more = (cpus as usize).checked_sub(plugged).ok_or_else(|| refuse("cpus", "a running VM keeps those it has"))?;
    let mut free: Vec<&Value> = all.iter().filter(|cpu| cpu.get("qom-path").is_none()).collect();
    free.sort_by_key(|cpu| place(cpu));
    if more > free.len() {
        return Err(refuse("cpus", &format!("the VM that runs has room for {}", all.len())));
    }
    let block = missing_memory(running, instance, memory).await?;
    if let Some((slot, size)) = block {
        add_memory(running, slot, size).await?;
    }
    for cpu in &free[..more] {
        add_cpu(running, cpu).await?;
    }
    Ok(())
}

/// The slot and size of the memory that is to be added.
async fn missing_memory(running: &Running, instance: &Instance, memory: u64) -> Result<Option<(usize, u64)>> {
    let summary = running.qmp.execute("query-memory-size-summary", None).await?;
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let size = memory.checked_sub(number("base-memory") + number("plugged-memory"));
    let size = size.ok_or_else(|| refuse("memory", "a running VM keeps what it has"))?;
    if size == 0 {
        return Ok(None);
    }
    let devices = memory_devices(running).await?;
    let room = maximum(running).saturating_sub(number("base-memory"));
    if number("plugged-memory") + size > room || devices.len() >= SLOTS {
        let why = format!("the VM of {} that runs has no room for so much more", instance.name);
        return Err(refuse("memory", &why));
    }
    if !size.is_multiple_of(BLOCK) {
        return Err(refuse("memory", "grows by multiples of 128MiB while the VM runs"));
    }
    let taken = |slot: &usize| devices.iter().any(|device| device["data"]["slot"] == json!(*slot));
    Ok((0..SLOTS).find(|slot| !taken(slot)).map(|slot| (slot, size)))
}

async fn add_memory(running: &Running, slot: usize, size: u64) -> Result<()> {
    let (backend, id) = (format!("{BACKEND}{slot}"), format!("{MEMORY}{slot}"));
    let kind = backend_kind(running);
    let mut object = json!({ "qom-type": kind.split(',').next(), "id": backend, "size": size });
    if kind.ends_with(",share=on") {
        object["share"] = true.into();
    }
    running.qmp.execute("object-add", Some(object)).await?;
    let dimm = json!({ "driver": "pc-dimm", "id": id, "memdev": backend, "slot": slot });
    let added = running.qmp.execute("device_add", Some(dimm)).await;
    if added.is_err() {
        // Nothing uses it; one that stays costs nothing before it is touched.
        let _ = running.qmp.execute("object-del", Some(json!({ "id": backend }))).await;
    }
    added.map(drop)
}

async fn add_cpu(running: &Running, cpu: &Value) -> Result<()> {
    let place = place(cpu);
    let words: Vec<String> = place.iter().map(|(_, value)| value.to_string()).collect();
    let mut device = json!({ "driver": cpu["type"], "id": format!("{CPU}{}", words.join("-")) });
    for (key, value) in place {
        device[key] = value.into();
    }
    running.qmp.execute("device_add", Some(device)).await.map(drop)
}

/// Where a processor is, without the node, which is all there is.
fn place(cpu: &Value) -> Vec<(String, u64)> {
    let keys = ["socket-id", "die-id", "core-id", "thread-id"];
    keys.iter().filter_map(|key| Some(((*key).to_owned(), cpu["props"][key].as_u64()?))).collect()
}

async fn cpus(running: &Running) -> Result<Vec<Value>> {
    list(running.qmp.execute("query-hotpluggable-cpus", None).await?)
}

async fn memory_devices(running: &Running) -> Result<Vec<Value>> {
    let all = list(running.qmp.execute("query-memory-devices", None).await?)?;
    Ok(all.into_iter().filter(|device| device["type"] == "dimm").collect())
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(Error::failed("QEMU", "answers what is no list")),
    }
}

/// What virtiofsd must see is shared, whenever it comes.
fn backend_kind(running: &Running) -> &'static str {
    let is_shared = |word: &std::ffi::OsString| word.to_string_lossy().starts_with("memory-backend-memfd");
    match running.process.arguments().iter().any(is_shared) {
        true => "memory-backend-memfd,share=on",
        false => "memory-backend-ram",
    }
}

/// Bytes that the running VM may have in all; 0 without room.
fn maximum(running: &Running) -> u64 {
    let arguments = running.process.arguments();
    let sizes = arguments.windows(2).find(|pair| pair[0] == "-m").map(|pair| pair[1].to_string_lossy().into_owned());
    let sizes = sizes.unwrap_or_default();
    let most =
        sizes.split(',').find_map(|option| option.strip_prefix("maxmem=")?.strip_suffix('M')?.parse::<u64>().ok());
    most.map_or(0, |mib| mib << 20)
}

fn refuse(field: &str, why: &str) -> Error {
    Error::invalid(field, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    #[test]
    fn room_is_left_where_it_costs_nothing() {
        let x86 = machine::find("x86_64").unwrap();
        assert_eq!(memory(x86, 256), "256");
        assert_eq!(memory(x86, 4096), "4096,slots=8,maxmem=16384M");
        assert_eq!(memory(machine::find("aarch64").unwrap(), 4096), "4096");
        assert!(max_cpus(x86, 1) == 4 && max_cpus(x86, 64) >= 64);
        assert_eq!(max_cpus(machine::find("aarch64").unwrap(), 3), 3);
        assert_eq!(smp(2, 4), "2,maxcpus=4,sockets=1,cores=4,threads=1");
        assert_eq!(smp(2, 2), "2,sockets=1,cores=2,threads=1");
    }

    #[test]
    fn what_was_added_is_known_by_its_name() {
        assert!(is_added("qemu64-x86_64-cpu,id=limafs-cpu-0-0-1-0,socket-id=0"));
        assert!(!is_added("virtio-blk-pci,drive=boot-disk"));
    }
}
