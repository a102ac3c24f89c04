//! Screen and sound of a guest: `video` and `audio` of lima.yaml as values. Pure.
//!
//! What lima.yaml says reaches QEMU as one value of one option and is checked word by word: a document from elsewhere
//! must not open a display without a password, or a file, by it.

use limafs_driver::{Config, Error, Result};

use crate::machine::Machine;

/// Lima's.
const VNC_DEFAULT: &str = "127.0.0.1:0,to=9";
/// What QEMU calls sound on this system, for `default`.
const SOUND_DEFAULT: &str = if cfg!(target_os = "macos") { "coreaudio" } else { "pa" };
/// Those of QEMU's displays that are a window, for `default`.
pub(crate) const WINDOWS: &[&str] = &["gtk", "sdl", "cocoa"];
/// Displays that need what a detached process has not.
const IMPOSSIBLE: &[(&str, &str)] =
    &[("curses", "needs a terminal"), ("spice-app", "starts a program, which the sandbox of QEMU forbids")];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Display {
    #[default]
    None,
    /// As QEMU's `-display` takes it.
    Window(String),
    /// Address and options as QEMU's `-vnc` takes them; the password comes later.
    Vnc(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sound {
    /// Name of the host's sound system in QEMU's words.
    pub driver: String,
    /// A virtio card where QEMU has one, else Intel's.
    pub is_virtio: bool,
}

/// What of `video` this machine is to show.
pub(crate) fn display(config: &Config) -> Result<Display> {
    let video = config.video.clone().unwrap_or_default();
    match video.display.as_deref() {
        None | Some("" | "none") => Ok(Display::None),
        Some("vnc") => {
            let address = video.vnc.and_then(|vnc| vnc.display).filter(|address| !address.is_empty());
            vnc(address.as_deref().unwrap_or(VNC_DEFAULT)).map(Display::Vnc)
        }
        Some(text) => window(text).map(Display::Window),
    }
}

/// The sound card that `audio` asks for.
pub(crate) fn sound(config: &Config, machine: &Machine) -> Result<Option<Sound>> {
    let audio = config.audio.clone().unwrap_or_default();
    let driver = match audio.device.as_deref() {
        None | Some("" | "none") => return Ok(None),
        Some("default") => SOUND_DEFAULT,
        Some(driver) => driver,
    };
    let refuse = |why: String| Err(Error::invalid("audio.device", why));
    if !machine.sound {
        return refuse(format!("there is no sound card for {}", machine.arch));
    }
    if !is_word(driver) {
        return refuse(format!("{driver:?} is no name of a sound system, such as pa, alsa or default"));
    }
    let is_virtio = match audio.interface.as_deref() {
        None | Some("" | "hda") => false,
        Some("virtio") => true,
        Some(other) => return Err(Error::invalid("audio.interface", format!("unknown card {other:?} (hda, virtio)"))),
    };
    Ok(Some(Sound { driver: driver.into(), is_virtio }))
}

fn window(text: &str) -> Result<String> {
    let refuse = |why: &str| Err(Error::invalid("video.display", format!("{text:?} {why}")));
    let (name, options) = text.split_once(',').unwrap_or((text, ""));
    if let Some((_, why)) = IMPOSSIBLE.iter().find(|(impossible, _)| *impossible == name) {
        return refuse(why);
    }
    if name.starts_with("vnc") {
        return refuse("is to be vnc alone, with the address in video.vnc.display");
    }
    if !is_word(name) || !options.split(',').all(|option| option.is_empty() || is_option(option)) {
        return refuse("is no display of QEMU, such as none, vnc, default, gtk, or sdl,gl=on");
    }
    Ok(text.into())
}

fn vnc(text: &str) -> Result<String> {
    let refuse = |why: &str| Err(Error::invalid("video.vnc.display", format!("{text:?} {why}")));
    let (address, options) = text.split_once(',').unwrap_or((text, ""));
    let Some((host, number)) = address.rsplit_once(':') else {
        return refuse("must be HOST:NUMBER, such as 127.0.0.1:0,to=9");
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if !host.chars().all(is_host) || number.parse::<u16>().is_err() {
        return refuse("must be HOST:NUMBER, such as 127.0.0.1:0,to=9");
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if !is_option(option) || option.starts_with("password") {
            return refuse("has an option that is not taken");
        }
    }
    Ok(text.into())
}

/// Whether a VNC address is one that other machines reach.
pub(crate) fn is_public(vnc: &str) -> bool {
    let host = vnc.split(',').next().and_then(|address| address.rsplit_once(':')).map_or("", |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_word(text: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(is_inside)
}

/// `key` or `key=value`, neither of which can be a path.
fn is_option(text: &str) -> bool {
    let (key, value) = text.split_once('=').unwrap_or((text, "on"));
    let is_value = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    is_word(key) && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn shown(display: &str) -> Result<Display> {
        super::display(&config(&serde_json::json!({ "video": { "display": display } }).to_string()))
    }

    fn at(vnc: &str) -> Result<Display> {
        let video = serde_json::json!({ "video": { "display": "vnc", "vnc": { "display": vnc } } });
        super::display(&config(&video.to_string()))
    }

    #[test]
    fn displays_are_limas() {
        assert_eq!(super::display(&config("{}")).unwrap(), Display::None);
        assert_eq!(shown("none").unwrap(), Display::None);
        assert_eq!(shown("vnc").unwrap(), Display::Vnc("127.0.0.1:0,to=9".into()));
        assert_eq!(at("").unwrap(), Display::Vnc("127.0.0.1:0,to=9".into()));
        assert_eq!(at("[::1]:3").unwrap(), Display::Vnc("[::1]:3".into()));
        assert_eq!(shown("default").unwrap(), Display::Window("default".into()));
        assert_eq!(shown("sdl,gl=on").unwrap(), Display::Window("sdl,gl=on".into()));
    }

    #[test]
    fn s17_a_display_opens_nothing_that_was_not_meant() {
        for text in ["vnc=:0", "vnc=unix:/x", "curses", "spice-app", "gtk,window=/a", "GTK", "gtk gl", "gtk\n", "-s"] {
            let error = shown(text).unwrap_err().to_string();
            assert!(error.starts_with("video.display: "), "{error}");
        }
        for text in ["0", "unix:/x", "127.0.0.1:x", ":0,password=off", ":0,websocket=/x", ":0,a b", "a/b:0"] {
            let error = at(text).unwrap_err().to_string();
            assert!(error.starts_with("video.vnc.display: "), "{error}");
        }
    }

    #[test]
    fn a_vnc_address_that_others_reach_is_known() {
        for (address, is) in [("127.0.0.1:0,to=9", false), ("localhost:1", false), ("[::1]:0", false), (":0", true)] {
            assert_eq!(is_public(address), is, "{address}");
        }
        assert!(is_public("0.0.0.0:5"));
    }

    #[test]
    fn sound_is_a_word_and_a_card_that_the_machine_has() {
        let x86 = machine::find("x86_64").unwrap();
        assert_eq!(sound(&config(r#"{"audio": {"device": ""}}"#), x86).unwrap(), None);
        let virtio = config(r#"{"audio": {"device": "alsa", "interface": "virtio"}}"#);
        assert_eq!(sound(&virtio, x86).unwrap(), Some(Sound { driver: "alsa".into(), is_virtio: true }));
        let error = sound(&virtio, machine::find("s390x").unwrap()).unwrap_err().to_string();
        assert_eq!(error, "audio.device: there is no sound card for s390x");
        let file = config(r#"{"audio": {"device": "wav,path=/etc/passwd"}}"#);
        assert!(sound(&file, x86).unwrap_err().to_string().starts_with("audio.device: "));
    }
}
