//! What is done with the archive of containerd, shown with a stand-in: programs and units of the same names that do nothing
//! but tell that they were called.

use std::path::Path;

use crate::common::{Case, Failed, Fleet, Outcome};
use crate::guest::{FAST_BOOT, FULL_BOOT, boot, fast, full, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        containerd_is_unpacked_once_and_started_for_system_and_user,
        a_guest_without_systemd_is_degraded_and_says_why,
    ]
}

/// `newuidmap` and `iptables` are there, too, so that no package is wanted for them.
const STAND_IN: &str = r#"set -e
rm -rf ~/tree && mkdir -p ~/tree/bin ~/tree/lib/systemd/system && cd ~/tree
for name in nerdctl newuidmap iptables; do printf '#!/bin/sh\necho stand-in %s VERSION\n' "$name" >bin/$name; done
printf '#!/bin/sh\nexec sleep infinity\n' >bin/containerd
cat >bin/containerd-rootless-setuptool.sh <<'END'
#!/bin/sh
echo "VERSION $(id -un) $XDG_RUNTIME_DIR $1" >>~/calls
mkdir -p ~/.config/systemd/user
case $1 in
    install) cp /usr/local/lib/systemd/system/containerd.service ~/.config/systemd/user/ && systemctl --user daemon-reload &&
        systemctl --user start containerd.service ;;
    uninstall) systemctl --user stop containerd.service && rm ~/.config/systemd/user/containerd.service ;;
esac
END
printf '[Service]\nExecStart=/usr/local/bin/containerd\n[Install]\nWantedBy=multi-user.target\n' >lib/systemd/system/containerd.service
chmod 755 bin/*
tar -czf ~/VERSION.tgz *
sha256sum ~/VERSION.tgz | cut -d ' ' -f 1"#;

/// Makes an archive and returns the lines of a document that ask for it.
fn archive(fleet: &Fleet, version: &str) -> Result<String, Failed> {
    let digest = fleet.ok(&STAND_IN.replace("VERSION", version))?;
    let path = fleet.root().join(format!("{version}.tgz"));
    Ok(format!(
        "containerd:\n  system: true\n  user: true\n  archives:\n  - location: {}\n    digest: sha256:{}\n",
        path.display(),
        digest.trim()
    ))
}

/// A document of a guest that asks for containerd.
fn asking(document: String, containerd: &str) -> String {
    document.replace("containerd: {system: false, user: false}\n", containerd)
}

fn archives_in(dir: &Path) -> Result<usize, Failed> {
    let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with("nerdctl-full.")).count())
}

fn containerd_is_unpacked_once_and_started_for_system_and_user() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &asking(full("")?, &archive(&fleet, "one")?))?;
    boot(&fleet, "foo", FULL_BOOT)?;
    let user = ssh(&fleet, "foo", "id -un")?;
    let runtime = ssh(&fleet, "foo", "echo /run/user/$(id -u)")?;
    same!(ssh(&fleet, "foo", "nerdctl")?, "stand-in nerdctl one");
    same!(
        ssh(&fleet, "foo", "systemctl is-active containerd; systemctl --user is-active containerd")?,
        "active\nactive"
    );
    let calls = format!("one {user} {runtime} install\none {user} {runtime} install-buildkit-containerd");
    same!(ssh(&fleet, "foo", "cat ~/calls")?, calls);
    same!(ssh(&fleet, "foo", "grep -c ^$(id -un): /etc/subuid /etc/subgid")?, "/etc/subuid:1\n/etc/subgid:1");
    same!(
        ssh(&fleet, "foo", "ls /var/lib/systemd/linger; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")?,
        format!("{user}\n0")
    );
    same!(ssh(&fleet, "foo", "systemctl show -p Delegate user@$(id -u)")?, "Delegate=yes");
    stop(&fleet, "foo")?;
    // The same archive is left alone, another one takes its place.
    boot(&fleet, "foo", FULL_BOOT)?;
    same!(ssh(&fleet, "foo", "cat ~/calls; systemctl is-active containerd")?, format!("{calls}\nactive"));
    stop(&fleet, "foo")?;
    fleet.create_over("foo", &asking(full("")?, &archive(&fleet, "two")?))?;
    boot(&fleet, "foo", FULL_BOOT)?;
    same!(
        ssh(&fleet, "foo", "nerdctl; tail -n 2 ~/calls | cut -d ' ' -f 1,4")?,
        "stand-in nerdctl two\ntwo install\ntwo install-buildkit-containerd"
    );
    same!(archives_in(&fleet.home.join("foo"))?, 1);
    stop(&fleet, "foo")
}

fn a_guest_without_systemd_is_degraded_and_says_why() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &asking(fast("")?, &archive(&fleet, "one")?))?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FAST_BOOT)?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("boot.Linux/40-containerd.sh failed with exit code 1"), "error says {error:?}");
    ensure!(error.contains("containerd needs a guest with systemd"), "error says {error:?}");
    stop(&fleet, "foo")
}
