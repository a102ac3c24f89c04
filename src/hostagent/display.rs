//! The VNC display of a VM that was just started: gives it a password, and writes down where it is, as Lima does. The
//! driver removes both files when the VM is gone.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use limafs_driver::{Config, Driver};

use crate::error::{Error, Result};
use crate::names;
use crate::store;

/// VNC's limit.
const PASSWORD: usize = 8;
/// TCP port of display 0.
const FIRST_PORT: u16 = 5900;

/// Opens the display to who knows the password. Nothing to do for a VM without one.
pub async fn open(driver: &dyn Driver, config: &Config, dir: &Path) -> Result<()> {
    let video = config.video.clone().unwrap_or_default();
    if video.display.as_deref() != Some("vnc") {
        return Ok(());
    }
    let wanted = video.vnc.and_then(|vnc| vnc.display).unwrap_or_default();
    let password = password()?;
    driver.change_display_password(&password).await?;
    store::replace(&dir.join(names::VNC_PASSWORD), password.as_bytes(), 0o600)?;
    let address = address(&wanted, &driver.display_connection().await?)?;
    tracing::info!("VNC display {address}, its password is in {}", names::VNC_PASSWORD);
    store::replace(&dir.join(names::VNC_DISPLAY), address.as_bytes(), 0o600)
}

/// `HOST:DISPLAY` of what was wanted, and the port that it got: the first free one, where `to=` allows several.
fn address(wanted: &str, port: &str) -> Result<String> {
    let host = wanted.split(',').next().and_then(|address| address.rsplit_once(':')).map_or("", |(host, _)| host);
    let number = port.parse::<u16>().ok().and_then(|port| port.checked_sub(FIRST_PORT));
    let number = number.ok_or_else(|| Error::failed("VNC", format!("display at an impossible port, {port:?}")))?;
    Ok(format!("{host}:{number}"))
}

/// Letters and digits, so that it can be copied by a double click.
fn password() -> Result<String> {
    let path = Path::new("/dev/urandom");
    let mut random = BufReader::new(File::open(path).map_err(Error::io(path))?).bytes();
    let mut text = String::new();
    while text.len() < PASSWORD {
        match random.next() {
            Some(Ok(byte)) if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            Some(Ok(_)) => {}
            Some(Err(source)) => return Err(Error::io(path)(source)),
            None => return Err(Error::failed("VNC", "the random numbers have ended")),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_is_where_the_driver_says_on_the_host_that_was_wanted() {
        assert_eq!(address("127.0.0.1:0,to=9", "5903").unwrap(), "127.0.0.1:3");
        assert_eq!(address("[::1]:7", "5907").unwrap(), "[::1]:7");
        assert_eq!(address(":1", "5901").unwrap(), ":1");
        assert!(address("127.0.0.1:0", "22").is_err());
        assert!(address("127.0.0.1:0", "no port").is_err());
    }

    #[test]
    fn passwords_are_words_and_differ() {
        let (one, another) = (password().unwrap(), password().unwrap());
        assert!(one.len() == PASSWORD && one.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{one}");
        assert_ne!(one, another);
    }
}
