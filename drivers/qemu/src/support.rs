//! What the QEMU on this machine can: displays, sound systems, processors. Asked for only what an instance wants.

use limafs_driver::{Accelerator, Error, Instance, Result};

use crate::display::{Display, Sound, WINDOWS};
use crate::machine::Machine;
use crate::program::{Program, Version, ask};
use crate::{configure, display, plan, swtpm};

/// The first that has `-netdev stream`, which connects to a socket by itself.
const STREAMS_SINCE: Version = Version(7, 2, 0);

/// Refuses what the configuration asks for and this machine has not, by the name of the field.
pub(crate) async fn check(
    instance: &Instance,
    machine: &Machine,
    program: &Program,
    accelerator: &Accelerator,
) -> Result<()> {
    if let Display::Window(window) = display::display(&instance.config)? {
        check_window(program, &window).await?;
    }
    if let Some(sound) = display::sound(&instance.config, machine)? {
        check_sound(program, &sound).await?;
    }
    if instance.config.tpm == Some(true) {
        swtpm::find()?;
    }
    if configure::socket_networks(&instance.config).next().is_some() && program.version < STREAMS_SINCE {
        let why = format!("needs QEMU {STREAMS_SINCE}, this machine has {}", program.version);
        return Err(Error::invalid("networks[].socket", why));
    }
    match plan::chosen_cpu(instance, machine)? {
        Some(cpu) => check_cpu(program, machine, &cpu, accelerator).await,
        None => Ok(()),
    }
}

async fn check_window(program: &Program, window: &str) -> Result<()> {
    let name = window.split(',').next().unwrap_or(window);
    let known = ask(&program.words, &["-display", "help"]).await?;
    let is_known = |name: &str| known.lines().any(|line| line.trim() == name);
    match name {
        // Without one QEMU would listen for VNC instead, and ask for no password.
        "default" if WINDOWS.iter().any(|window| is_known(window)) => Ok(()),
        "default" => Err(Error::invalid("video.display", "this QEMU has no windows (apt-get install qemu-system-gui)")),
        _ if is_known(name) => Ok(()),
        _ => Err(Error::invalid("video.display", format!("this QEMU has no display {name} ({})", listed(&known)))),
    }
}

async fn check_sound(program: &Program, sound: &Sound) -> Result<()> {
    let known = ask(&program.words, &["-audiodev", "help"]).await?;
    if known.lines().any(|line| line.trim() == sound.driver) {
        return Ok(());
    }
    let why = format!("this QEMU has no sound system {} ({})", sound.driver, listed(&known));
    Err(Error::invalid("audio.device", why))
}

async fn check_cpu(program: &Program, machine: &Machine, cpu: &str, accelerator: &Accelerator) -> Result<()> {
    let model = cpu.split(',').next().unwrap_or(cpu);
    let refuse = |why: String| Err(Error::invalid("vmOpts.qemu.cpuType", why));
    match model {
        "max" => return Ok(()),
        "host" if accelerator.name == "tcg" => return refuse(format!("host needs KVM: {}", accelerator.reason)),
        "host" => return Ok(()),
        _ => {}
    }
    let known = ask(&program.words, &["-machine", machine.machine, "-cpu", "help"]).await?;
    // Some list `x86 NAME description`, others the name alone.
    match known.split_whitespace().any(|word| word == model) {
        true => Ok(()),
        false => refuse(format!("{} knows no CPU {model}", machine.program)),
    }
}

/// The names of a list that QEMU prints below a heading.
fn listed(text: &str) -> String {
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(' '));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine, program};

    /// What is said of a configuration by the real program, if there is one.
    async fn said(arch: &str, config: &str) -> Option<Result<()>> {
        let machine = machine::find(arch).unwrap();
        let Ok(program) = program::find(machine).await else {
            eprintln!("SKIPPED: there is no {}", machine.program);
            return None;
        };
        let config = serde_json::from_str(config).unwrap();
        let instance = Instance { arch: arch.into(), config, ..Instance::default() };
        let accelerator = Accelerator { name: "tcg".into(), reason: "told so".into() };
        Some(check(&instance, machine, &program, &accelerator).await)
    }

    #[tokio::test]
    async fn what_this_qemu_has_not_is_refused_by_the_field_s_name() {
        for (arch, config, wanted) in [
            ("x86_64", r#"{"video": {"display": "fancy"}}"#, "video.display: this QEMU has no display fancy (none, "),
            (
                "x86_64",
                r#"{"audio": {"device": "fancy"}}"#,
                "audio.device: this QEMU has no sound system fancy (none, ",
            ),
            (
                "x86_64",
                r#"{"vmOpts": {"qemu": {"cpuType": {"x86_64": "host,-vmx"}}}}"#,
                "vmOpts.qemu.cpuType: host needs KVM: told so",
            ),
            (
                "aarch64",
                r#"{"cpuType": {"aarch64": "qemu64"}}"#,
                "vmOpts.qemu.cpuType: qemu-system-aarch64 knows no CPU qemu64",
            ),
        ] {
            let Some(said) = said(arch, config).await else { continue };
            let error = said.unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[tokio::test]
    async fn what_every_qemu_has_is_taken() {
        for (arch, config) in [
            ("x86_64", r#"{"video": {"display": "vnc"}, "audio": {"device": "none"}}"#),
            ("x86_64", r#"{"vmOpts": {"qemu": {"cpuType": {"x86_64": "qemu64,+ssse3", "aarch64": "?"}}}}"#),
            ("aarch64", r#"{"vmOpts": {"qemu": {"cpuType": {"aarch64": "cortex-a72"}}}}"#),
            ("s390x", r#"{"vmOpts": {"qemu": {"cpuType": {"s390x": "max"}}}}"#),
        ] {
            if let Some(said) = said(arch, config).await {
                said.unwrap_or_else(|error| panic!("{config}: {error}"));
            }
        }
    }
}
