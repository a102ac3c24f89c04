//! The port of the guest's ssh: one of this host's, only ever on 127.0.0.1, or the driver's own.

use std::net::{Ipv4Addr, TcpListener};

use limafs_driver::{Driver, Instance};

use crate::error::{Error, Result};

/// Where sshd of a guest listens that has an address of its own.
const SSH: u16 = 22;

/// The port of a driver that has its own: it says so when it is configured, or, as Lima's do, of the instance's status.
pub async fn of_driver(driver: &dyn Driver, instance: &Instance) -> Result<u16> {
    let said = match instance.ssh_local_port {
        0 => driver.inspect_status(instance.clone()).await?.ssh_local_port,
        port => port,
    };
    Ok(if said == 0 { SSH } else { said })
}

/// The port that lima.yaml asks for, or the last one, or a free one. One that was asked for is never replaced.
pub fn choose(wanted: Option<i64>, last: Option<u16>) -> Result<u16> {
    match wanted {
        Some(port) if port > 0 => {
            let port = u16::try_from(port).map_err(|_| Error::invalid("ssh.localPort", "must be below 65536"))?;
            match try_port(port) {
                Ok(port) => Ok(port),
                Err(error) => Err(Error::failed("ssh.localPort", format!("port {port} on 127.0.0.1: {error}"))),
            }
        }
        _ => last
            .filter(|port| *port != 0)
            .and_then(|port| try_port(port).ok())
            .map_or_else(|| try_port(0).map_err(|error| Error::failed("a free port on 127.0.0.1", error)), Ok),
    }
}

/// Binds and lets go again. Somebody may take it in between; the driver then fails and says so.
fn try_port(port: u16) -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x23_a_wanted_port_that_is_taken_is_an_error_that_names_it() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = choose(Some(port.into()), None).unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} on 127.0.0.1")), "{error}");
    }

    #[test]
    fn x23_the_last_port_is_used_again_unless_it_is_taken() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        assert_ne!(choose(Some(0), Some(port)).unwrap(), port);
        drop(holder);
        assert_eq!(choose(None, Some(port)).unwrap(), port);
    }
}
