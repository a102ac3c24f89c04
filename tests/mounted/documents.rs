//! lima.yaml, written by every kind of tool: accepted whole, or refused with the old one left byte for byte.

use std::fs;

use crate::common::fleet::FAKE;
use crate::common::shell::Ran;
use crate::common::{Case, Fleet, Outcome};
use crate::{cases, ensure, fail, same};

pub fn cases() -> Vec<Case> {
    cases![
        every_tool_can_write_the_first_document,
        every_tool_can_replace_the_document,
        comments_and_spaces_come_back_as_written,
        a_refused_document_fails_in_close_and_leaves_the_old_one,
        a_bare_redirection_that_is_refused_still_leaves_the_sentence,
        a_refused_first_document_leaves_a_draft,
        b01_an_empty_document_is_refused,
        b_bad_values_are_refused_by_field,
        b26_a_mount_of_a_file_is_refused,
        b40_a_playbook_is_for_hosts_that_allow_it,
        unknown_keys_are_warnings,
        several_faults_are_reported_together,
        f10_dd_with_one_byte_blocks_writes_20_kib,
        f11_a_document_over_1_mib_is_too_big,
        regression_a_document_over_1_mib_is_not_cut,
        f11_a_write_far_beyond_the_end_is_too_big,
        appending_and_editing_in_place,
        x31_a_writer_that_dies_half_way_changes_nothing,
        e06_making_an_existing_instance_changes_nothing,
        protected_reads_and_takes_0_and_1,
        effective_yaml_has_the_defaults_and_is_read_only,
    ]
}

/// A valid document that differs from [`FAKE`].
const OTHER: &str = "# mine\nvmType: fake   # pretend\nimages:\n- location: /etc/profile\n\ncpus: 2\n";

fn with_instance() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fs::write(fleet.root().join("other.yaml"), OTHER)?;
    fs::write(fleet.root().join("bad.yaml"), "vmType: fake\nimages:\n- location: /etc/profile\ncpus: many\n")?;
    Ok(fleet)
}

/// What is on disk, and what the tree shows, must both be this document.
fn expect_document(fleet: &Fleet, name: &str, text: &str, tool: &str) -> Outcome {
    same!(fleet.read(&format!("{name}/lima.yaml")), text, "after {tool}");
    same!(fs::read_to_string(fleet.home.join(name).join("lima.yaml"))?, text, "on disk, after {tool}");
    Ok(())
}

/// Lines that put ~/other.yaml (or another file, by `$F`) into $T.
const WRITERS: &[&str] = &[
    "cp $F $T",
    "cat $F > $T",
    "tee $T < $F > /dev/null",
    "dd if=$F of=$T status=none",
    "dd if=$F of=$T bs=7 conv=fsync status=none",
    "install -m 644 $F $T",
    "rsync $F $T",
    "rsync --inplace $F $T",
    "cp $F $T.new && mv $T.new $T",
    "python3 -c 'import sys; d=open(sys.argv[1]).read()\nwith open(sys.argv[2], \"w\") as f: f.write(d)' $F $T",
];

fn write(fleet: &Fleet, line: &str, from: &str, to: &str) -> Result<Ran, libtest_mimic::Failed> {
    fleet.sh(&format!("F=$HOME/{from}; T={to}; {line}"))
}

fn every_tool_can_write_the_first_document() -> Outcome {
    let fleet = with_instance()?;
    for (number, line) in WRITERS.iter().enumerate() {
        let name = format!("i{number}");
        fs::create_dir(fleet.mnt.join(&name))?;
        write(&fleet, line, "other.yaml", &format!("{name}/lima.yaml"))?.text()?;
        expect_document(&fleet, &name, OTHER, line)?;
        same!(fleet.state(&name), "Stopped", "after {line}");
    }
    Ok(())
}

fn every_tool_can_replace_the_document() -> Outcome {
    let fleet = with_instance()?;
    for line in WRITERS {
        fleet.ok("printf 'vmType: fake\\nimages:\\n- location: /etc/profile\\n' > foo/lima.yaml")?;
        expect_document(&fleet, "foo", FAKE, "printf")?;
        write(&fleet, line, "other.yaml", "foo/lima.yaml")?.text()?;
        expect_document(&fleet, "foo", OTHER, line)?;
        same!(fleet.read("foo/error"), "", "after {line}");
    }
    Ok(())
}

fn comments_and_spaces_come_back_as_written() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("cp ~/other.yaml foo/lima.yaml && cmp foo/lima.yaml ~/other.yaml")?;
    same!(fleet.ok("stat -c %s foo/lima.yaml")?, OTHER.len().to_string());
    Ok(())
}

fn a_refused_document_fails_in_close_and_leaves_the_old_one() -> Outcome {
    let fleet = with_instance()?;
    for line in WRITERS {
        // The redirection is bash's own; cat is what reports close(2).
        let ran = write(&fleet, line, "bad.yaml", "foo/lima.yaml")?;
        ensure!(ran.code != 0, "{line} did not notice: {ran:?}");
        expect_document(&fleet, "foo", FAKE, line)?;
        let error = fleet.read("foo/error");
        ensure!(error.contains("cpus"), "after {line}, error says {error:?}");
        same!(fleet.state("foo"), "Stopped");
        fleet.ok("cp ~/other.yaml foo/lima.yaml && cp foo/lima.yaml ~/now.yaml")?;
        same!(fleet.read("foo/error"), "", "error is not cleared by a good document after {line}");
        fleet.create_over("foo", FAKE)?;
    }
    Ok(())
}

fn a_bare_redirection_that_is_refused_still_leaves_the_sentence() -> Outcome {
    let fleet = with_instance()?;
    fleet.sh("echo 'cpus: many' > foo/lima.yaml")?;
    expect_document(&fleet, "foo", FAKE, "echo")?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("cpus"), "error says {error:?}");
    Ok(())
}

fn a_refused_first_document_leaves_a_draft() -> Outcome {
    let fleet = with_instance()?;
    let ran = fleet.sh("mkdir bar && cp ~/bad.yaml bar/lima.yaml")?;
    ensure!(ran.code != 0, "cp did not notice: {ran:?}");
    same!(fleet.state("bar"), "Uninitialized");
    ensure!(!fleet.home.join("bar/lima.yaml").exists(), "a refused document is on disk");
    ensure!(fleet.read("bar/error").contains("cpus"), "error says {:?}", fleet.read("bar/error"));
    let ran = fleet.sh("echo start > bar/state")?;
    ensure!(ran.code != 0, "a draft was started: {ran:?}");
    fleet.ok("rmdir bar")?;
    ensure!(!fleet.home.join("bar").exists(), "a draft stays on disk");
    Ok(())
}

fn b40_a_playbook_is_for_hosts_that_allow_it() -> Outcome {
    let playbook = "provision: [{mode: ansible, playbook: /etc/passwd}]";
    let fleet = with_instance()?;
    let ran = fleet.sh(&format!("(cat foo/lima.yaml; echo '{playbook}') > ~/new; cp ~/new foo/lima.yaml"))?;
    ensure!(ran.code != 0, "it was accepted");
    ensure!(fleet.read("foo/error").contains("LIMAFS_ALLOW_ANSIBLE=true"), "error says {:?}", fleet.read("foo/error"));
    expect_document(&fleet, "foo", FAKE, "a playbook")?;
    let mut fleet = Fleet::unmounted()?;
    fleet.env.push(("LIMAFS_ALLOW_ANSIBLE".into(), "true".into()));
    fleet.mount()?;
    fleet.create("foo", &format!("{FAKE}{playbook}\n"))?;
    let ran = fleet.sh("sed -i 's|/etc/passwd|/nonexistent|' foo/lima.yaml")?;
    ensure!(ran.code != 0 && fleet.read("foo/error").contains("no file of this host"), "{}", fleet.read("foo/error"));
    Ok(())
}

fn b01_an_empty_document_is_refused() -> Outcome {
    let fleet = with_instance()?;
    let ran =
        fleet.sh("cp /dev/null foo/lima.yaml; cp ~/nothing foo/lima.yaml 2>/dev/null; : > foo/lima.yaml; true")?;
    same!(ran.code, 0);
    expect_document(&fleet, "foo", FAKE, "an empty write")?;
    let ran = fleet.sh("echo '{}' | dd of=foo/lima.yaml status=none")?;
    ensure!(ran.code != 0, "a document without images was accepted");
    ensure!(fleet.read("foo/error").contains("images"), "error says {:?}", fleet.read("foo/error"));
    expect_document(&fleet, "foo", FAKE, "{}")
}

fn b_bad_values_are_refused_by_field() -> Outcome {
    let fleet = with_instance()?;
    let bad = [
        ("minimumLimaVersion: 99.0.0", "minimumLimaVersion"),
        ("minimumLimaVersion: invalid", "minimumLimaVersion"),
        ("memory: lots", "memory"),
        ("disk: 3QiB", "disk"),
        ("cpus: -1", "cpus"),
        ("ssh: {localPort: 70000}", "ssh.localPort"),
        ("provision: [{mode: sideways, script: 'true'}]", "provision[0].mode"),
        ("probes: [{script: foo}]", "probes[0]"),
        ("vmType: [qemu", "line"),
        ("\tcpus: 1", "line"),
    ];
    for (snippet, field) in bad {
        let document = if snippet.starts_with("vmType") || snippet.starts_with('\t') {
            format!("images: [{{location: /etc/profile}}]\n{snippet}\n")
        } else {
            format!("{FAKE}{snippet}\n")
        };
        fs::write(fleet.root().join("b.yaml"), document)?;
        let ran = fleet.sh("cp ~/b.yaml foo/lima.yaml")?;
        ensure!(ran.code != 0, "accepted: {snippet}");
        let error = fleet.read("foo/error");
        ensure!(error.contains(field), "for {snippet:?} error says {error:?}, which does not name {field}");
        expect_document(&fleet, "foo", FAKE, snippet)?;
    }
    Ok(())
}

fn b26_a_mount_of_a_file_is_refused() -> Outcome {
    let fleet = with_instance()?;
    let with = |location: &str| format!("{FAKE}mounts:\n- location: /var/tmp\n- location: {location}\n");
    fs::write(fleet.root().join("file.yaml"), with("/etc/profile"))?;
    let ran = fleet.sh("cp ~/file.yaml foo/lima.yaml")?;
    ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{ran:?}");
    let error = fleet.read("foo/error");
    ensure!(error.contains("mounts[1].location") && error.contains("is not a directory"), "{error:?}");
    let line = FAKE.lines().count() + 3;
    ensure!(error.contains(&format!("line {line}")), "{error:?}");
    expect_document(&fleet, "foo", FAKE, "a refusal")?;
    // One that is not there may yet come.
    fs::write(fleet.root().join("missing.yaml"), with("/there/is/none"))?;
    fleet.ok("cp ~/missing.yaml foo/lima.yaml")?;
    Ok(())
}

fn unknown_keys_are_warnings() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("(cat foo/lima.yaml; echo 'cpu: 3') > ~/w.yaml && cp ~/w.yaml foo/lima.yaml")?;
    same!(fleet.state("foo"), "Stopped");
    let said = format!("{}{}", fleet.read("foo/status"), fleet.read("foo/log"));
    ensure!(said.contains("cpu"), "nobody warns of the unknown key: {said:?}");
    Ok(())
}

fn several_faults_are_reported_together() -> Outcome {
    let fleet = with_instance()?;
    fs::write(fleet.root().join("b.yaml"), format!("{FAKE}memory: lots\ndisk: 3QiB\n"))?;
    let ran = fleet.sh("cp ~/b.yaml foo/lima.yaml")?;
    ensure!(ran.code != 0, "accepted");
    let error = fleet.read("foo/error");
    ensure!(error.contains("memory") && error.contains("disk"), "error says {error:?}");
    Ok(())
}

fn f10_dd_with_one_byte_blocks_writes_20_kib() -> Outcome {
    let fleet = with_instance()?;
    let mut long = FAKE.to_owned();
    while long.len() < 20 * 1024 {
        long.push_str("# a line of comment that makes the document longer than a page\n");
    }
    fs::write(fleet.root().join("long.yaml"), &long)?;
    fleet.ok("dd if=$HOME/long.yaml of=foo/lima.yaml bs=1 status=none")?;
    expect_document(&fleet, "foo", &long, "dd bs=1")
}

fn f11_a_document_over_1_mib_is_too_big() -> Outcome {
    let fleet = with_instance()?;
    let ran = fleet.sh("head -c 1500000 /dev/zero | tr '\\0' '#' > ~/big; cp ~/big foo/lima.yaml")?;
    ensure!(ran.code != 0 && ran.err.contains("File too large"), "{ran:?}");
    expect_document(&fleet, "foo", FAKE, "1.5 MB")
}

/// Whose first MiB alone would be valid.
fn regression_a_document_over_1_mib_is_not_cut() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("(cat foo/lima.yaml; head -c 1500000 /dev/zero | tr '\\0' '#') > ~/big")?;
    for (place, error) in
        [("foo/lima.yaml", "foo/error"), (".templates/big.yaml", ".error"), (".config/default.yaml", ".error")]
    {
        let ran = fleet.sh(&format!("cp ~/big {place}"))?;
        ensure!(ran.code != 0 && ran.err.contains("File too large"), "{place}: {ran:?}");
        let told = fleet.ok(&format!("cat {error}"))?;
        ensure!(told.contains("larger than 1048576 bytes"), "{place}: {told}");
    }
    expect_document(&fleet, "foo", FAKE, "1.5 MB")?;
    fleet.ok("test ! -e .templates/big.yaml && test ! -s .config/default.yaml")?;
    Ok(())
}

fn f11_a_write_far_beyond_the_end_is_too_big() -> Outcome {
    let fleet = with_instance()?;
    let daemon = fleet.daemon()?;
    // Once without looking: what a first refusal allocates is not what is asked here.
    fleet.sh("echo x | dd of=foo/lima.yaml bs=1 seek=1G conv=notrunc status=none; cat foo/error")?;
    let before = crate::common::procs::private_kib(daemon);
    let ran = fleet.sh("echo x | dd of=foo/lima.yaml bs=1 seek=1G conv=notrunc status=none")?;
    ensure!(ran.code != 0, "accepted: {ran:?}");
    expect_document(&fleet, "foo", FAKE, "a write at 1 GiB")?;
    let grown = crate::common::procs::private_kib(daemon).saturating_sub(before);
    ensure!(grown < 2048, "the daemon grew by {grown} KiB");
    Ok(())
}

fn appending_and_editing_in_place() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("echo 'cpus: 2' >> foo/lima.yaml")?;
    expect_document(&fleet, "foo", &format!("{FAKE}cpus: 2\n"), ">>")?;
    fleet.ok("echo '# end' | tee -a foo/lima.yaml >/dev/null")?;
    expect_document(&fleet, "foo", &format!("{FAKE}cpus: 2\n# end\n"), "tee -a")?;
    fleet.ok("python3 -c 'f=open(\"foo/lima.yaml\", \"r+\"); f.seek(0); d=f.read().replace(\"cpus: 2\", \"cpus: 3\"); f.seek(0); f.write(d); f.close()'")?;
    expect_document(&fleet, "foo", &format!("{FAKE}cpus: 3\n# end\n"), "r+")
}

fn x31_a_writer_that_dies_half_way_changes_nothing() -> Outcome {
    let fleet = with_instance()?;
    // The kernel closes, and so flushes, for a dead writer too.
    for part in ["v", "vmType: fake\n", "vmType: fake\nimages:\n", "vmType: fake\nimages:\n- loc"] {
        fs::write(fleet.root().join("part.yaml"), part)?;
        let ran = fleet.sh("exec python3 -c 'import os; d=open(os.environ[\"HOME\"]+\"/part.yaml\").read().encode(); f=open(\"foo/lima.yaml\", \"wb\", 0); f.write(d); os.kill(os.getpid(), 9)'")?;
        same!(ran.code, 137, "python was to die: {ran:?}");
        expect_document(&fleet, "foo", FAKE, part)?;
    }
    Ok(())
}

fn e06_making_an_existing_instance_changes_nothing() -> Outcome {
    let fleet = with_instance()?;
    let ran = fleet.sh("mkdir foo")?;
    ensure!(ran.code != 0 && ran.err.contains("File exists"), "{ran:?}");
    expect_document(&fleet, "foo", FAKE, "mkdir")
}

fn protected_reads_and_takes_0_and_1() -> Outcome {
    let fleet = with_instance()?;
    same!(fleet.ok("cat foo/protected")?, "0");
    fleet.ok("echo 1 > foo/protected; echo 1 > foo/protected")?;
    same!(fleet.ok("cat foo/protected")?, "1");
    ensure!(fleet.home.join("foo/protected").exists(), "no marker as Lima has it");
    let ran = fleet.sh("rmdir foo")?;
    ensure!(ran.code != 0 && ran.err.contains("Operation not permitted"), "{ran:?}");
    let ran = fleet.sh("rm -r foo")?;
    ensure!(ran.code != 0, "rm -r of a protected instance succeeded");
    expect_document(&fleet, "foo", FAKE, "rm -r")?;
    let ran = fleet.sh("echo 7 > foo/protected")?;
    ensure!(ran.code != 0 && ran.err.contains("Invalid argument"), "{ran:?}");
    fleet.ok("echo 0 > foo/protected; echo 0 > foo/protected; rmdir foo")?;
    if fleet.home.join("foo").exists() {
        fail!("foo stays on disk");
    }
    Ok(())
}

fn effective_yaml_has_the_defaults_and_is_read_only() -> Outcome {
    let fleet = with_instance()?;
    let text = fleet.ok("cat foo/effective.yaml")?;
    for key in ["cpus:", "memory:", "disk:", "arch:", "vmType: fake"] {
        ensure!(text.contains(key), "no {key} in {text}");
    }
    let ran = fleet.sh("echo x > foo/effective.yaml")?;
    ensure!(ran.code != 0, "effective.yaml was written");
    Ok(())
}
