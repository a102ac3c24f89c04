//! Editors: scratch files, save in place and by rename.

use std::fs;

use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        vim_saves_in_place,
        vim_that_saves_by_rename,
        vim_says_that_a_document_is_refused,
        sed_in_place_edits,
        sed_in_place_with_a_backup,
        sed_that_breaks_the_document_is_told,
        a_rename_of_a_bad_document_is_refused_and_both_stay,
        a_save_by_rename_is_durable,
        emacs_lock_symlinks_can_be_made,
        scratch_means_nothing_and_is_not_in_the_home,
        scratch_is_bounded,
        a_node_cannot_be_removed_alone,
        rsync_into_an_instance,
    ]
}

fn with_instance() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &format!("{FAKE}cpus: 1\n"))?;
    Ok(fleet)
}

fn document(fleet: &Fleet) -> String {
    let (shown, stored) = (fleet.read("foo/lima.yaml"), fs::read_to_string(fleet.home.join("foo/lima.yaml")));
    let stored = stored.unwrap_or_default();
    if shown == stored { shown } else { format!("the tree shows {shown:?}, on disk is {stored:?}") }
}

fn vim_saves_in_place() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("vim -u NONE -es -c '%s/cpus: 1/cpus: 2/' -c 'wq' foo/lima.yaml")?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    ensure!(!fleet.ok("ls -A foo")?.contains(".swp"), "vim's swap file stays");
    Ok(())
}

fn vim_that_saves_by_rename() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok(
        "vim -u NONE -es -c 'set backup writebackup backupcopy=no' -c '%s/cpus: 1/cpus: 2/' -c 'wq' foo/lima.yaml",
    )?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    Ok(())
}

fn vim_says_that_a_document_is_refused() -> Outcome {
    let fleet = with_instance()?;
    let ran =
        fleet.sh("vim -u NONE -es -c '%s/cpus: 1/cpus: many/' -c 'wq' foo/lima.yaml; rc=$?; pkill -P $$; exit $rc")?;
    ensure!(ran.code != 0, "vim did not notice");
    same!(document(&fleet), format!("{FAKE}cpus: 1\n"));
    ensure!(fleet.read("foo/error").contains("cpus"), "error says {:?}", fleet.read("foo/error"));
    Ok(())
}

fn sed_in_place_edits() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("sed -i 's/cpus: 1/cpus: 2/' foo/lima.yaml")?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    ensure!(!fleet.ok("ls -A foo")?.contains("sed"), "sed's temporary file stays");
    Ok(())
}

fn sed_in_place_with_a_backup() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("sed -i.bak 's/cpus: 1/cpus: 2/' foo/lima.yaml")?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    same!(fleet.read("foo/lima.yaml.bak"), format!("{FAKE}cpus: 1\n"));
    fleet.ok("mv foo/lima.yaml.bak foo/lima.yaml")?;
    same!(document(&fleet), format!("{FAKE}cpus: 1\n"));
    Ok(())
}

fn sed_that_breaks_the_document_is_told() -> Outcome {
    let fleet = with_instance()?;
    let ran = fleet.sh("sed -i 's/cpus: 1/cpus: many/' foo/lima.yaml")?;
    ensure!(ran.code != 0, "sed did not notice: {ran:?}");
    same!(document(&fleet), format!("{FAKE}cpus: 1\n"));
    Ok(())
}

fn a_rename_of_a_bad_document_is_refused_and_both_stay() -> Outcome {
    let fleet = with_instance()?;
    // mv(1) says something of its own for EINVAL.
    let rename =
        "import os\ntry: os.rename(\"foo/new.tmp\", \"foo/lima.yaml\")\nexcept OSError as e: print(e.strerror)";
    let ran = fleet.sh(&format!(
        "echo 'cpus: many' > foo/new.tmp && ! mv foo/new.tmp foo/lima.yaml 2>/dev/null && python3 -c '{rename}'"
    ))?;
    same!(ran.text()?, "Invalid argument");
    same!(document(&fleet), format!("{FAKE}cpus: 1\n"));
    same!(fleet.read("foo/new.tmp"), "cpus: many\n");
    ensure!(fleet.read("foo/error").contains("cpus"), "error says {:?}", fleet.read("foo/error"));
    Ok(())
}

fn a_save_by_rename_is_durable() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("sed 's/cpus: 1/cpus: 2/' foo/lima.yaml > foo/.lima.yaml.tmp && mv foo/.lima.yaml.tmp foo/lima.yaml")?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    Ok(())
}

fn emacs_lock_symlinks_can_be_made() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("ln -s me@host.123:456 foo/.#lima.yaml")?;
    same!(fleet.ok("readlink foo/.#lima.yaml")?, "me@host.123:456");
    fleet.ok("rm foo/.#lima.yaml && ! [ -L foo/.#lima.yaml ]")?;
    Ok(())
}

fn scratch_means_nothing_and_is_not_in_the_home() -> Outcome {
    let fleet = with_instance()?;
    fleet
        .ok("cd foo; for f in .foo.swp 4913 foo~ ._foo .DS_Store sedAbCdEf; do echo hello > $f; chmod 600 $f; done")?;
    same!(fleet.ok("cat foo/4913 foo/foo~")?, "hello\nhello");
    let on_disk = fs::read_dir(fleet.home.join("foo"))?.flatten().map(|entry| entry.file_name());
    let strays: Vec<_> =
        on_disk.filter(|name| ["4913", "foo~", ".DS_Store"].iter().any(|stray| name == stray)).collect();
    ensure!(strays.is_empty(), "in the home: {strays:?}");
    same!(fleet.state("foo"), "Stopped");
    fleet.ok("rm foo/.foo.swp foo/4913 foo/foo~ foo/._foo foo/.DS_Store foo/sedAbCdEf && rmdir foo")?;
    Ok(())
}

fn scratch_is_bounded() -> Outcome {
    let fleet = with_instance()?;
    let ran = fleet.sh("head -c 3000000 /dev/zero > foo/big.tmp")?;
    ensure!(ran.code != 0, "3 MB of scratch in one file");
    let ran = fleet.sh("rm -f foo/big.tmp; for i in $(seq 1 40); do echo x > foo/s$i.tmp || exit 1; done")?;
    ensure!(ran.code != 0, "40 scratch files in one directory");
    Ok(())
}

fn a_node_cannot_be_removed_alone() -> Outcome {
    let fleet = with_instance()?;
    // `rm -r` must be able to unlink: it succeeds and changes nothing.
    fleet.ok("rm foo/lima.yaml foo/state; cat foo/state")?;
    same!(document(&fleet), format!("{FAKE}cpus: 1\n"));
    Ok(())
}

fn rsync_into_an_instance() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("mkdir ~/src && sed 's/cpus: 1/cpus: 2/' foo/lima.yaml > ~/src/lima.yaml && rsync -rI ~/src/ foo/")?;
    same!(document(&fleet), format!("{FAKE}cpus: 2\n"));
    Ok(())
}
