//! The keys of a home: `.config/user.pub` is shown and stays, the private key beside it is out of reach.

use std::fs;

use crate::common::fleet::LIMAFS;
use crate::common::{Case, Fleet, Outcome, secs, wait_until};
use crate::config::{DOCUMENTS, refusal, write_inputs};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        the_public_key_is_shown_and_stays,
        s01_the_private_key_is_reachable_by_no_name,
        s01_config_is_private_whatever_the_umask,
    ]
}

const PUBLIC: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 lima\n";
const PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";

/// A home with a pair of keys.
fn with_keys() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::unmounted()?;
    write_inputs(&fleet)?;
    fs::create_dir_all(fleet.home.join("_config"))?;
    fs::write(fleet.home.join("_config/user"), PRIVATE)?;
    fs::write(fleet.home.join("_config/user.pub"), PUBLIC)?;
    fleet.mount()?;
    Ok(fleet)
}

fn the_public_key_is_shown_and_stays() -> Outcome {
    let fleet = with_keys()?;
    same!(fleet.ok("ls -A .config; stat -c %a .config/user.pub")?, "user.pub\n400");
    for line in [
        "cp ~/new .config/user.pub",
        "echo x >> .config/user.pub",
        "rm -f .config/user.pub",
        "mv .config/user.pub .config/default.yaml",
        "cp ~/new .config/base.yaml && mv -f .config/base.yaml .config/user.pub",
        "cp ~/new .config/base.yaml.new && mv -f .config/base.yaml.new .config/user.pub",
        "chmod 600 .config/user.pub",
    ] {
        let error = refusal(&fleet, line)?;
        ensure!(error.contains("user.pub: is made with") || line.starts_with("chmod"), "{line}: {error:?}");
        same!(fleet.read(".config/user.pub"), PUBLIC, "after {line}");
    }
    same!(fs::read_to_string(fleet.home.join("_config/user.pub"))?, PUBLIC);
    // The one that a start makes is seen as well.
    fs::remove_file(fleet.home.join("_config/user.pub"))?;
    fs::remove_file(fleet.home.join("_config/user"))?;
    wait_until("no key", secs(5), || !fleet.mnt.join(".config/user.pub").exists())?;
    fleet.ok("ssh-keygen -q -t ed25519 -N '' -C lima -f $H/_config/user")?;
    let made = fs::read_to_string(fleet.home.join("_config/user.pub"))?;
    wait_until("the new key", secs(5), || fleet.read(".config/user.pub") == made)
}

fn s01_the_private_key_is_reachable_by_no_name() -> Outcome {
    let fleet = with_keys()?;
    let dir = fleet.home.join("_config");
    same!(fleet.sh("cat .config/user")?.err, "cat: .config/user: No such file or directory\n");
    let hidden = || -> Outcome {
        let ran = fleet.sh("grep -rl 'PRIVATE KEY' . --exclude-dir=.templates; ls -A .config")?;
        ensure!(!ran.out.contains("./") && !ran.out.lines().any(|name| name == "user"), "{ran:?}");
        Ok(())
    };
    hidden()?;
    fs::create_dir(dir.join("sub"))?;
    let links =
        ["ln -sf ../_config/user", "ln -sf user", "ln -f $H/_config/user", "cp --remove-destination $H/_config/user"];
    for name in DOCUMENTS.into_iter().chain(["user.pub", "other.pub", "user.yaml", "sub/user"]) {
        for (number, link) in links.into_iter().enumerate() {
            fleet.ok(&format!("{link} $H/_config/{name}"))?;
            // All files are read at once: when this is seen, so is the link.
            let (beside, mark) =
                (if name == "base.yaml" { "networks.yaml" } else { "base.yaml" }, format!("n: {number}"));
            fs::write(dir.join(beside), &mark)?;
            wait_until(&format!("{link} {name} is seen"), secs(5), || {
                fleet.read(&format!(".config/{beside}")) == mark
            })?;
            hidden()?;
        }
        fs::remove_file(dir.join(name))?;
    }
    for name in ["user", "user.pub", "x"] {
        ensure!(fleet.sh(&format!("ln -s $H/_config/user .config/{name}"))?.code != 0, "{name} was made");
        ensure!(fleet.sh(&format!("ln $H/_config/user .config/{name}"))?.code != 0, "{name} was made");
    }
    same!(fs::read_to_string(dir.join("user"))?, PRIVATE);
    Ok(())
}

fn s01_config_is_private_whatever_the_umask() -> Outcome {
    for umask in ["000", "077"] {
        let fleet = Fleet::unmounted()?;
        write_inputs(&fleet)?;
        let ran = fleet.sh(&format!("umask {umask}; cd ~ && {LIMAFS} mount $M"))?;
        ensure!(ran.code == 0, "{ran:?}");
        fleet.ok(&format!("umask {umask}; cp ~/new .config/default.yaml; cp ~/new .config/base.yaml"))?;
        same!(fleet.ok("stat -c %a $H/_config $H/_config/*")?, "700\n600\n600", "under umask {umask}");
        same!(fleet.ok("stat -c %a .config .config/*")?, "700\n600\n600", "under umask {umask}");
    }
    Ok(())
}
