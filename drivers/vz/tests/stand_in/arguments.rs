//! The command lines of vfkit 0.6.4 and krunkit 1.2: what they know, and what they refuse.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the stand-in goes by.
#[derive(Debug, Default)]
pub struct Arguments {
    pub rest: PathBuf,
    pub devices: Vec<(String, Options)>,
}

pub type Options = BTreeMap<String, String>;

/// Devices with the options that vfkit knows; `!` after one that must not have a value.
const VFKIT: &[(&str, &[&str])] = &[
    ("virtio-serial", &["logFilePath", "stdio!", "pty!"]),
    ("virtio-rng", &[]),
    ("virtio-balloon", &[]),
    ("virtio-blk", &["path", "deviceId", "type", "readonly!"]),
    ("usb-mass-storage", &["path", "type", "readonly!"]),
    ("nvme", &["path", "type", "readonly!"]),
    ("virtio-net", &["nat!", "mac", "fd", "unixSocketPath", "type", "path", "vfkitMagic", "offloading"]),
    ("virtio-vsock", &["socketURL", "port", "listen!", "connect!"]),
    ("virtio-fs", &["sharedDir", "mountTag"]),
    ("rosetta", &["mountTag", "install!", "ignore-if-missing!"]),
    ("virtio-gpu", &["width", "height"]),
    ("virtio-input", &["keyboard!", "pointing!"]),
];

const KRUNKIT: &[(&str, &[&str])] = &[
    ("virtio-serial", &["logFilePath"]),
    ("virtio-rng", &[]),
    ("virtio-blk", &["path", "format"]),
    ("virtio-net", &["unixSocketPath", "mac", "type", "path", "fd", "offloading", "vfkitMagic"]),
    ("virtio-vsock", &["port", "socketURL", "listen!", "connect!"]),
    ("virtio-fs", &["sharedDir", "mountTag"]),
    ("virtio-gpu", &["width", "height"]),
    ("virtio-input", &["keyboard!", "pointing!"]),
];

pub fn parse(words: &[String], krunkit: bool) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let (mut cpus, mut memory, mut boot) = (false, false, krunkit);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--gui" || word == "--nested" {
            continue;
        }
        let value = words.next().ok_or_else(|| format!("flag needs an argument: {word}"))?;
        match word.as_str() {
            "--cpus" => cpus = number(value)? > 0,
            "--memory" => memory = number(value)? > 0,
            "--restful-uri" => arguments.rest = socket(value)?,
            "--device" => arguments.devices.push(device(value, krunkit)?),
            "--bootloader" if !krunkit => {
                bootloader(value)?;
                boot = true;
            }
            "--krun-log-level" if krunkit => drop(number(value)?),
            _ => return Err(format!("unknown flag: {word}")),
        }
    }
    match () {
        () if !boot => Err("empty option list in --bootloader command line argument".into()),
        () if !cpus || !memory => Err("cpus and memory must be given".into()),
        () => Ok(arguments),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("invalid number {text:?}"))
}

fn socket(uri: &str) -> Result<PathBuf, String> {
    let path = uri.strip_prefix("unix://").filter(|path| path.starts_with('/') && path.len() < 108);
    path.map(PathBuf::from).ok_or_else(|| format!("invalid uri {uri:?}"))
}

fn bootloader(text: &str) -> Result<(), String> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    // A quotation may hold commas.
    let (before, quoted) =
        rest.split_once('"').map_or((rest, None), |(before, after)| (before, after.strip_suffix('"')));
    let known: &[&str] = match kind {
        "efi" => &["variable-store", "create"],
        "linux" => &["kernel", "initrd", "cmdline"],
        _ => return Err(format!("unknown bootloader type: {kind}")),
    };
    for option in before.split(',').filter(|option| !option.is_empty()) {
        let key = option.split('=').next().unwrap_or_default();
        if !known.contains(&key) {
            return Err(format!("unknown option for {kind} bootloaders: {key}"));
        }
    }
    match (kind, before.contains("variable-store="), quoted) {
        ("efi", true, None) => Ok(()),
        ("linux", false, Some(_)) if before.contains("kernel=") && before.ends_with("cmdline=") => Ok(()),
        _ => Err(format!("missing or wrong options in --bootloader {text}")),
    }
}

fn device(text: &str, krunkit: bool) -> Result<(String, Options), String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().to_owned();
    let table = if krunkit { KRUNKIT } else { VFKIT };
    let (_, known) = table.iter().find(|(known, _)| *known == name).ok_or(format!("unknown device type: {name}"))?;
    let mut options = Options::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let fits = match value {
            None => known.contains(&format!("{key}!").as_str()),
            Some(value) => known.contains(&key) && !(krunkit && value.contains('=')),
        };
        if !fits || options.insert(key.into(), value.unwrap_or_default().into()).is_some() {
            return Err(format!("unknown or repeated option for {name} devices: {part}"));
        }
    }
    check(&name, &options, krunkit)?;
    Ok((name, options))
}

fn check(name: &str, options: &Options, krunkit: bool) -> Result<(), String> {
    let has = |key: &str| options.contains_key(key);
    let one_of = |keys: &[&str]| keys.iter().filter(|key| has(key)).count() == 1;
    let right = match name {
        "virtio-blk" | "usb-mass-storage" => has("path"),
        "virtio-net" => {
            let stream = krunkit && options.get("type").is_some_and(|kind| kind == "unixstream") && has("path");
            is_mac(options.get("mac")) && (stream || one_of(&["nat", "fd", "unixSocketPath", "type"]))
        }
        "virtio-vsock" => has("socketURL") && has("port") && one_of(&["listen", "connect"]),
        "virtio-fs" => has("sharedDir") && has("mountTag"),
        "rosetta" => has("mountTag"),
        "virtio-serial" => has("logFilePath"),
        "virtio-gpu" => has("width") && has("height"),
        "virtio-input" => one_of(&["keyboard", "pointing"]),
        _ => true,
    };
    if !right {
        return Err(format!("missing or wrong options for {name} devices: {options:?}"));
    }
    let Some(path) = options.get("path").filter(|_| name != "virtio-net") else { return Ok(()) };
    let bytes = std::fs::read(path).map_err(|error| format!("failed to open file {path}: {error}"))?;
    match bytes.starts_with(b"QFI\xfb") {
        true if !krunkit => Err("vfkit does not support qcow2 image format".into()),
        _ => Ok(()),
    }
}

fn is_mac(text: Option<&String>) -> bool {
    let is_byte = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    text.is_some_and(|text| text.split(':').count() == 6 && text.split(':').all(is_byte))
}
