//! `cpus`, `memory`, `disk`: what they show, and that a new value changes this one value of lima.yaml.

use std::fs;

use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        knobs_show_the_value_in_force,
        a_new_value_changes_its_line_alone,
        a_knob_that_is_not_written_is_added,
        b32_a_bad_value_fails_in_write_and_changes_nothing,
        knobs_turned_at_once_all_count,
        what_cannot_be_edited_safely_is_refused,
        a_draft_has_no_knobs,
        a_disk_that_exists_is_not_shrunk,
    ]
}

const DOCUMENT: &str = "# mine\nvmType: fake   # pretend\nimages: [{location: /etc/profile}]\n\n\
                        cpus:   1   # one\nmemory: \"1GiB\"\t# quoted\ndisk: 4GiB\n# end\n";

fn with_instance() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", DOCUMENT)?;
    Ok(fleet)
}

/// What the tree shows and what is on disk must both be this.
fn expect_document(fleet: &Fleet, text: &str) -> Outcome {
    same!(fleet.read("foo/lima.yaml"), text);
    same!(fs::read_to_string(fleet.home.join("foo/lima.yaml"))?, text, "on disk");
    Ok(())
}

fn knobs_show_the_value_in_force() -> Outcome {
    let fleet = with_instance()?;
    same!(fleet.ok("cat foo/cpus foo/memory foo/disk")?, "1\n1GiB\n4GiB");
    fleet.create("bar", FAKE)?;
    same!(fleet.read("bar/disk"), "100GiB\n", "a default");
    same!(fleet.ok("stat -c %s foo/memory")?, "5");
    Ok(())
}

fn a_new_value_changes_its_line_alone() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("echo 3 > foo/cpus && echo 2GiB > foo/memory && printf 8GiB > foo/disk")?;
    let new = DOCUMENT.replace("cpus:   1", "cpus:   3").replace("\"1GiB\"", "\"2GiB\"").replace("4GiB", "8GiB");
    expect_document(&fleet, &new)?;
    same!(fleet.ok("cat foo/cpus foo/memory foo/disk")?, "3\n2GiB\n8GiB");
    ensure!(fleet.read("foo/effective.yaml").contains("cpus: 3\n"), "{}", fleet.read("foo/effective.yaml"));
    // A definition by any other way turns the knob too.
    fleet.ok("sed -i 's/cpus:   3/cpus:   2/' foo/lima.yaml")?;
    same!(fleet.read("foo/cpus"), "2\n");
    same!(fleet.ok("tail -n 1 events | jq -r .event.change")?, "defined");
    Ok(())
}

fn a_knob_that_is_not_written_is_added() -> Outcome {
    let fleet = with_instance()?;
    fleet.create_over("foo", FAKE)?;
    fleet.ok("echo 3 > foo/cpus")?;
    expect_document(&fleet, &format!("{FAKE}cpus: 3\n"))
}

fn b32_a_bad_value_fails_in_write_and_changes_nothing() -> Outcome {
    let fleet = with_instance()?;
    for (knob, value) in [("cpus", "0"), ("cpus", "many"), ("memory", "lots"), ("disk", "-1"), ("memory", "")] {
        let ran = fleet.sh(&format!("echo '{value}' > foo/{knob}"))?;
        ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{knob} {value:?}: {ran:?}");
        let error = fleet.read("foo/error");
        ensure!(error.starts_with(&format!("{knob}: takes a ")), "{knob} {value:?}: {error:?}");
        expect_document(&fleet, DOCUMENT)?;
    }
    fleet.ok("echo 2 > foo/cpus")?;
    same!(fleet.read("foo/error"), "", "after a good value");
    Ok(())
}

fn knobs_turned_at_once_all_count() -> Outcome {
    let fleet = with_instance()?;
    for n in 2..12 {
        fleet.ok(&format!("echo {n} > foo/cpus & echo {n}GiB > foo/memory & echo {n}0GiB > foo/disk & wait"))?;
        same!(fleet.ok("cat foo/cpus foo/memory foo/disk")?, format!("{n}\n{n}GiB\n{n}0GiB"));
    }
    Ok(())
}

fn what_cannot_be_edited_safely_is_refused() -> Outcome {
    let fleet = with_instance()?;
    let document = format!("{FAKE}memory: &size 4GiB\ndisk: *size\n");
    fleet.create_over("foo", &document)?;
    for (knob, words) in [("disk", "alias"), ("memory", "more than this value")] {
        let ran = fleet.sh(&format!("echo 8GiB > foo/{knob}"))?;
        ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{ran:?}");
        let error = fleet.read("foo/error");
        ensure!(error.contains(words) && error.contains("edit lima.yaml itself"), "{error:?}");
        expect_document(&fleet, &document)?;
    }
    Ok(())
}

fn a_draft_has_no_knobs() -> Outcome {
    let fleet = with_instance()?;
    fs::create_dir(fleet.mnt.join("bar"))?;
    same!(fleet.read("bar/cpus"), "");
    let ran = fleet.sh("echo 2 > bar/cpus")?;
    ensure!(ran.code != 0 && ran.err.contains("busy"), "{ran:?}");
    same!(fleet.read("bar/error"), "cpus: bar has no lima.yaml yet\n");
    Ok(())
}

fn a_disk_that_exists_is_not_shrunk() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("echo 2GiB > foo/disk && echo 4GiB > foo/disk && echo start > foo/state && cat foo/wait/Running")?;
    let ran = fleet.sh("echo 2GiB > foo/disk")?;
    ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{ran:?}");
    ensure!(fleet.read("foo/error").contains("shrinking the disk (4GiB -> 2GiB)"), "{}", fleet.read("foo/error"));
    expect_document(&fleet, DOCUMENT)
}
