//! `jobs/` on a real mount, as far as it goes without a guest: a pretend hostagent, and what lies on disk for it.

use crate::common::{Case, Outcome, secs, wait_until};
use crate::guest::guest;
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![regression_a_command_line_counts_as_a_whole, regression_no_part_of_a_command_line_is_run]
}

/// Shells write line by line, programs in blocks, and each of several through the same handle.
fn regression_a_command_line_counts_as_a_whole() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("mkdir foo/jobs/b && echo 'for n in 1 2\ndo echo $n\ndone' > foo/jobs/b/cmd")?;
    fleet.ok("mkdir foo/jobs/c && { /bin/echo one; echo two; printf 'three\nfour\n'; } > foo/jobs/c/cmd")?;
    same!(
        fleet.ok("cat foo/jobs/c/cmd && cat $H/foo/limafs.jobs/c/cmd")?,
        "one\ntwo\nthree\nfour\none\ntwo\nthree\nfour"
    );
    fleet.ok("mkdir foo/jobs/d && head -c 50000 /dev/zero | tr '\\0' x | dd bs=1000 of=foo/jobs/d/cmd status=none")?;
    same!(fleet.ok("wc -c < foo/jobs/d/cmd")?, "50000");
    let again = fleet.sh("echo true > foo/jobs/d/cmd")?;
    ensure!(again.code != 0 && again.err.contains("busy"), "{again:?}");
    // Nobody who opened it is left when it is closed.
    fleet.ok("mkdir foo/jobs/e && (exec 3> foo/jobs/e/cmd; (until [ -e ~/go ]; do sleep 0.01; done; echo late >&3) > /dev/null 2>&1 &)")?;
    fleet.ok("touch ~/go")?;
    wait_until("the job", secs(10), || fleet.sh("cat foo/jobs/e/cmd").is_ok_and(|ran| ran.out == "late\n"))
}

fn regression_no_part_of_a_command_line_is_run() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("mkdir foo/jobs/b")?;
    let long = fleet.sh("head -c 70000 /dev/zero | tr '\\0' x > foo/jobs/b/cmd")?;
    ensure!(long.err.contains("File too large"), "{long:?}");
    fleet.sh("sh -c 'echo rm -r a; kill -9 $$' > foo/jobs/b/cmd")?;
    ensure!(fleet.read("foo/error").contains("killed"), "{}", fleet.read("foo/error"));
    let blank = fleet.sh("cat > foo/jobs/b/cmd <<< ' '")?;
    ensure!(blank.code != 0 || fleet.read("foo/error").contains("takes a command line"), "{blank:?}");
    same!(fleet.ok("cat foo/jobs/b/cmd; ls $H/foo/limafs.jobs/b")?, "id");
    fleet.ok("echo true > foo/jobs/b/cmd")?;
    same!(fleet.ok("cat $H/foo/limafs.jobs/b/cmd")?, "true");
    Ok(())
}
