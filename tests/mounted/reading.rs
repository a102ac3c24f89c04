//! Reading everything: it never blocks, and it changes nothing.

use crate::common::fleet::FAKE;
use crate::common::{Case, Failed, Fleet, Outcome, procs, secs};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        f14_reading_every_file_ends_and_changes_nothing,
        f20_tar_rsync_du_and_grep_read_the_whole_tree,
        an_archive_of_an_instance_can_be_unpacked_again,
        tail_f_follows_a_growing_log,
        readme_tells_of_every_file,
        json_files_are_json,
        git_and_find_newer_work,
    ]
}

fn fleet() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.ok("mkdir draft")?;
    fleet.running("bar")?;
    Ok(fleet)
}

/// Everything that could have changed: documents, states, and what lies in the home.
fn everything(fleet: &Fleet) -> Result<String, Failed> {
    fleet.ok("cat */state */lima.yaml */error; cd $H; find . ! -name '*.log' ! -name '*.events' -printf '%p %y %m %s %T@\\n' | sort")
}

fn f14_reading_every_file_ends_and_changes_nothing() -> Outcome {
    let fleet = fleet()?;
    let before = everything(&fleet)?;
    let processes = fleet.processes();
    let ran = fleet.sh_within("find $M -type f -exec head -c1M {} + > /dev/null", secs(60))?;
    ensure!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    let ran = fleet.sh_within("find $M -type f -print0 | xargs -0 -n1 timeout 60 cat > /dev/null", secs(60))?;
    ensure!(ran.code == 0, "{ran:?}");
    same!(everything(&fleet)?, before);
    same!(fleet.processes(), processes);
    Ok(())
}

fn f20_tar_rsync_du_and_grep_read_the_whole_tree() -> Outcome {
    let fleet = fleet()?;
    let before = everything(&fleet)?;
    for line in ["tar cf ~/all.tar -C $M .", "rsync -a $M/ ~/copy/", "du -s $M", "ls -lR $M", "cp -r $M ~/copy2"] {
        let ran = fleet.sh_within(&format!("{line} > /dev/null"), secs(60))?;
        ensure!(ran.code == 0 && ran.err.is_empty(), "{line}: {ran:?}");
    }
    same!(fleet.ok("grep -rl 'vmType: fake' --include=lima.yaml . | sort")?, "./bar/lima.yaml\n./foo/lima.yaml");
    same!(fleet.ok("diff ~/copy/foo/lima.yaml foo/lima.yaml && diff ~/copy2/bar/state bar/state")?, "");
    same!(everything(&fleet)?, before);
    Ok(())
}

fn an_archive_of_an_instance_can_be_unpacked_again() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("tar cf ~/foo.tar foo && rmdir foo")?;
    // Read-only nodes cannot be written back; the document can.
    fleet.ok("mkdir foo && tar xf ~/foo.tar foo/lima.yaml")?;
    same!(fleet.read("foo/lima.yaml"), FAKE);
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn tail_f_follows_a_growing_log() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let mut tail = fleet.start("exec tail -n +1 -f foo/events")?;
    fleet.ok("echo start > foo/state; timeout 60 cat foo/wait/Running")?;
    crate::common::wait_until("tail shows Running", secs(5), || tail.out().contains("Running"))?;
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped")?;
    crate::common::wait_until("tail shows Stopped", secs(5), || tail.out().contains("Stopped"))?;
    let lines = tail.out();
    same!(lines.lines().filter(|line| !line.starts_with('{')).count(), 0, "in {lines}");
    ensure!(procs::is_alive(tail.pid()), "tail ended");
    Ok(())
}

fn readme_tells_of_every_file() -> Outcome {
    let fleet = fleet()?;
    let readme = fleet.read("README.md");
    for name in fleet.ok("ls -A foo")?.lines() {
        ensure!(readme.contains(name), "README.md does not tell of {name}");
    }
    Ok(())
}

fn json_files_are_json() -> Outcome {
    let fleet = fleet()?;
    for file in fleet.ok("find . -name '*.json'")?.lines() {
        fleet.ok(&format!("jq -e . {file} > /dev/null"))?;
    }
    Ok(())
}

fn git_and_find_newer_work() -> Outcome {
    let fleet = fleet()?;
    // The clock of file times ticks every few milliseconds.
    fleet.ok("touch ~/mark ~/tick; until [ ~/tick -nt ~/mark ]; do touch ~/tick; done")?;
    same!(fleet.ok("find . -name lima.yaml -newer ~/mark")?, "");
    fleet.ok("sed -i 's/fake/fake # now/' foo/lima.yaml")?;
    same!(fleet.ok("find . -name lima.yaml -newer ~/mark")?, "./foo/lima.yaml");
    Ok(())
}
