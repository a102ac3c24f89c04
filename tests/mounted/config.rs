//! `.config/`: what applies to every instance, as documents.

use std::fs;

use crate::announce::{saw, watch};
use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        config_documents_are_written_by_every_tool,
        a_config_document_that_is_refused_leaves_the_old_one,
        config_and_editors,
        config_documents_are_renamed_and_removed,
        d19_a_default_takes_effect_at_once_in_every_instance_and_is_announced,
        a_bad_default_that_others_write_is_named_with_its_line,
        config_that_others_change_is_seen_and_announced,
        a_base_is_for_what_is_made_from_then_on,
        networks_are_checked,
        networks_are_shown_with_those_who_name_them,
        what_is_no_document_of_config_is_refused,
        x31_a_writer_of_config_that_dies_half_way_changes_nothing,
    ]
}

pub const DOCUMENTS: [&str; 4] = ["default.yaml", "override.yaml", "base.yaml", "networks.yaml"];
/// Fits all of them: what the schema does not have is passed over.
const OLD: &str = "# old\nown: 1\n";
const NEW: &str = "# new\nown: 2   # mine\n";
const BAD: &str = "# bad\n- own\n";

/// Lines that put $F into $T.
const WRITERS: &[&str] = &[
    "cp $F $T",
    "cat $F > $T",
    "tee $T < $F > /dev/null",
    "dd if=$F of=$T bs=7 conv=fsync status=none",
    "install -m 644 $F $T",
    "rsync $F $T",
    "rsync --inplace $F $T",
    "cp -p $F $T",
    "cp $F $T.new && mv $T.new $T",
    "python3 -c 'import sys; d=open(sys.argv[1]).read()\nwith open(sys.argv[2], \"w\") as f: f.write(d)' $F $T",
];

fn fleet() -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    write_inputs(&fleet)?;
    Ok(fleet)
}

pub fn write_inputs(fleet: &Fleet) -> Outcome {
    for (name, text) in [("old", OLD), ("new", NEW), ("bad", BAD)] {
        fs::write(fleet.root().join(name), text)?;
    }
    Ok(())
}

/// What the tree shows and what is on disk must both be this; `None` for no such document.
fn expect(fleet: &Fleet, name: &str, text: Option<&str>, after: &str) -> Outcome {
    let shown = fs::read_to_string(fleet.mnt.join(".config").join(name)).ok();
    same!(shown.as_deref(), text, "{name} in the tree after {after}");
    let stored = fs::read_to_string(fleet.home.join("_config").join(name)).ok();
    same!(stored.as_deref(), text, "{name} on disk after {after}");
    let listed = fleet.ok("ls -A .config")?.lines().any(|line| line == name);
    same!(listed, text.is_some(), "{name} listed after {after}");
    Ok(())
}

pub fn refusal(fleet: &Fleet, line: &str) -> Result<String, libtest_mimic::Failed> {
    let ran = fleet.sh(line)?;
    ensure!(ran.code != 0 && ran.err.contains("Operation not permitted"), "{line}: {ran:?}");
    Ok(fleet.read(".error"))
}

fn config_documents_are_written_by_every_tool() -> Outcome {
    let fleet = fleet()?;
    same!(fleet.ok("ls -A .config; stat -c %a .config")?, "700");
    for (number, line) in WRITERS.iter().enumerate() {
        let name = DOCUMENTS[number % DOCUMENTS.len()];
        for (file, text) in [("old", OLD), ("new", NEW)] {
            fleet.ok(&format!("F=$HOME/{file}; T=.config/{name}; {line}"))?;
            expect(&fleet, name, Some(text), line)?;
        }
        same!(fleet.read(".error"), "", "after {line}");
        same!(fleet.ok(&format!("stat -c '%s %a' .config/{name}"))?, format!("{} 600", NEW.len()));
        fleet.ok(&format!("rm .config/{name}"))?;
        expect(&fleet, name, None, "rm")?;
    }
    same!(fs::read_dir(fleet.home.join("_config"))?.count(), 0, "something is left");
    Ok(())
}

fn a_config_document_that_is_refused_leaves_the_old_one() -> Outcome {
    let fleet = fleet()?;
    // install(1) removes what is there before it writes.
    for (number, line) in WRITERS.iter().filter(|line| !line.starts_with("install")).enumerate() {
        let name = DOCUMENTS[number % DOCUMENTS.len()];
        for old in [None, Some(OLD)] {
            if old.is_some() {
                fleet.ok(&format!("cp ~/old .config/{name}"))?;
            }
            let ran = fleet.sh(&format!("F=$HOME/bad; T=.config/{name}; {line}"))?;
            ensure!(ran.code != 0, "{line} did not notice: {ran:?}");
            expect(&fleet, name, old, line)?;
            let error = fleet.read(".error");
            ensure!(error.starts_with(&format!("{name}: line 2, column 1: expected a map")), "after {line}: {error:?}");
            fleet.ok("rm -f .config/*.new")?;
        }
        fleet.ok(&format!("rm .config/{name}"))?;
    }
    fleet.ok("cp ~/old .config/default.yaml")?;
    fleet.sh(": > .config/default.yaml")?;
    expect(&fleet, "default.yaml", Some(OLD), "a write of nothing")?;
    ensure!(fleet.read(".error").contains("remove the file instead"), "{:?}", fleet.read(".error"));
    fleet.ok("cp ~/new .config/default.yaml")?;
    same!(fleet.read(".error"), "", "a good one clears it");
    Ok(())
}

fn config_and_editors() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("echo 'cpus: 2' > .config/default.yaml")?;
    let vim = "vim -u NONE -es";
    let file = ".config/default.yaml";
    for (line, cpus) in [
        (format!("{vim} -c '%s/2$/3/' -c wq {file}"), 3),
        (format!("{vim} -c 'set backup writebackup backupcopy=no' -c '%s/3$/4/' -c wq {file}"), 4),
        (format!("sed -i 's/4$/5/' {file}"), 5),
        (format!("sed -i.bak 's/5$/6/' {file}"), 6),
        (format!("ln -s me@host.1 .config/.#default.yaml && sed -i 's/6$/7/' {file} && rm .config/.#default.yaml"), 7),
        (format!("echo 'cpus: 8' | {vim} -c 'r /dev/stdin' -c '1d' -c 'w!' -c q {file}; sed -i 's/7$/8/' {file}"), 8),
    ] {
        fleet.ok(&line)?;
        expect(&fleet, "default.yaml", Some(&format!("cpus: {cpus}\n")), &line)?;
    }
    fleet.ok(&format!("echo 'memory: 1GiB' >> {file} && sed -i 's/^/# /' {file}"))?;
    expect(&fleet, "default.yaml", Some("# cpus: 8\n# memory: 1GiB\n"), "all commented out")?;
    let stored: Vec<_> = fs::read_dir(fleet.home.join("_config"))?.collect();
    same!(stored.len(), 1, "scratch is on disk: {stored:?}");
    Ok(())
}

fn config_documents_are_renamed_and_removed() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/old .config/default.yaml && mv .config/default.yaml .config/override.yaml")?;
    expect(&fleet, "default.yaml", None, "mv")?;
    expect(&fleet, "override.yaml", Some(OLD), "mv")?;
    fleet.ok("cp ~/new .config/base.yaml && mv .config/base.yaml .config/override.yaml")?;
    expect(&fleet, "base.yaml", None, "mv onto another")?;
    expect(&fleet, "override.yaml", Some(NEW), "mv onto another")?;
    fleet.ok("echo 'networks: []' > .config/base.yaml")?;
    ensure!(fleet.sh("mv .config/base.yaml .config/networks.yaml")?.code != 0, "it is no networks.yaml");
    ensure!(fleet.read(".error").contains("networks.yaml: line 1, column 11: networks: expected a map"), "no sentence");
    expect(&fleet, "base.yaml", Some("networks: []\n"), "a refused mv")?;
    fleet.ok("mv .config/base.yaml .config/base.yaml.bak; rm .config/base.yaml")?;
    same!(fleet.ok("ls -A .config")?, "base.yaml.bak\noverride.yaml");
    fleet.ok("mv .config/base.yaml.bak .config/base.yaml")?;
    expect(&fleet, "base.yaml", Some("networks: []\n"), "mv of its copy")
}

fn d19_a_default_takes_effect_at_once_in_every_instance_and_is_announced() -> Outcome {
    let fleet = fleet()?;
    fleet.create("foo", FAKE)?;
    fleet.create("bar", &format!("cpus: 2\n{FAKE}"))?;
    let cpus = |name: &str| fleet.read(&format!("{name}/cpus")).trim_end().to_owned();
    let before = (cpus("foo"), fleet.ok("cat foo/effective.yaml bar/effective.yaml list")?);
    let mut job = watch(&fleet, "-e modify foo/effective.yaml bar/effective.yaml foo/status list")?;
    fleet.ok("echo 'cpus: 7\nmemory: 1GiB' > .config/default.yaml")?;
    for name in ["foo", "bar"] {
        let effective = fleet.read(&format!("{name}/effective.yaml"));
        ensure!(effective.contains("memory: 1GiB\n"), "{name}: {effective}");
        saw(&mut job, &format!("{name}/effective.yaml MODIFY"))?;
    }
    same!((cpus("foo"), cpus("bar")), ("7".into(), "2".into()));
    same!(fleet.status("foo", "cpus").as_deref(), Some("7"));
    ensure!(fleet.read("list").contains("1GiB"), "{}", fleet.read("list"));
    saw(&mut job, "foo/status MODIFY")?;
    saw(&mut job, "list MODIFY")?;
    fleet.ok("echo 'cpus: 3' > .config/override.yaml")?;
    same!((cpus("foo"), cpus("bar")), ("3".into(), "3".into()));
    fleet.ok("rm .config/override.yaml")?;
    same!((cpus("foo"), cpus("bar")), ("7".into(), "2".into()));
    fleet.ok("rm .config/default.yaml")?;
    same!((cpus("foo"), fleet.ok("cat foo/effective.yaml bar/effective.yaml list")?), before);
    Ok(())
}

fn a_bad_default_that_others_write_is_named_with_its_line() -> Outcome {
    let fleet = fleet()?;
    fleet.create("foo", FAKE)?;
    fleet.create("bar", FAKE)?;
    let file = fleet.home.join("_config/default.yaml");
    fs::create_dir_all(fleet.home.join("_config"))?;
    let cases: [(&[u8], &str); 5] = [
        (b"# a\ncpus: many\n", "_config/default.yaml: line 2, column 7: cpus: invalid number"),
        (b"# a\n\ncpus: 99999\n", "_config/default.yaml: line 3, column 1: cpus: must be"),
        (b"# a\ncpus: [\n", "_config/default.yaml: line "),
        (b"# a\n- cpus\n", "_config/default.yaml: line 2, column 1: expected a map"),
        (b"# a\ncpus: \xff\n", "_config/default.yaml: line 2, column 7: not valid UTF-8"),
    ];
    for (bad, told) in cases {
        fs::write(&file, bad)?;
        for name in ["foo", "bar"] {
            fleet.wait_state(name, "Broken", secs(5))?;
            let says = || fleet.read(&format!("{name}/error")).contains(told);
            wait_until(told, secs(5), says)
                .map_err(|_| format!("{bad:?}: {:?}, not {told:?}", fleet.read(&format!("{name}/error"))))?;
        }
        let shown = || fs::read(fleet.mnt.join(".config/default.yaml")).ok();
        wait_until("it is shown as it is", secs(5), || shown().as_deref() == Some(bad))?;
        fleet.ok("echo 'cpus: 2' > .config/default.yaml")?;
        same!((fleet.state("foo"), fleet.state("bar")), ("Stopped".into(), "Stopped".into()));
        same!(fleet.read("foo/error"), "");
    }
    // One that nobody can read, a FIFO, holds nobody up, and gives way to a document.
    fs::remove_file(&file)?;
    fleet.ok("mkfifo $H/_config/x && mv $H/_config/x $H/_config/default.yaml")?;
    fleet.wait_state("foo", "Broken", secs(5))?;
    ensure!(fleet.read("foo/error").contains("_config/default.yaml: is not a regular file"), "no sentence");
    same!(fleet.ok("ls -A .config")?, "");
    fleet.ok("echo 'cpus: 2' > .config/default.yaml")?;
    same!((fleet.state("foo"), fleet.status("foo", "cpus")), ("Stopped".into(), Some("2".into())));
    Ok(())
}

fn config_that_others_change_is_seen_and_announced() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("ls .config > /dev/null")?;
    let dir = fleet.home.join("_config");
    for name in DOCUMENTS {
        let shown = |text: Option<&str>| {
            let now = || fs::read_to_string(fleet.mnt.join(".config").join(name)).ok();
            wait_until(&format!("{name} is {text:?}"), secs(5), || now().as_deref() == text)
        };
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), OLD)?;
        shown(Some(OLD))?;
        let mut job = watch(&fleet, &format!("-e modify .config/{name}"))?;
        fs::write(dir.join(name), NEW)?;
        saw(&mut job, &format!(".config/{name} MODIFY"))?;
        shown(Some(NEW))?;
        fs::remove_dir_all(&dir)?;
        shown(None)?;
    }
    fs::create_dir(&dir)?;
    fs::write(dir.join("notes"), OLD)?;
    fs::write(dir.join("base.yaml"), OLD)?;
    wait_until("base.yaml is there", secs(5), || fleet.read(".config/base.yaml") == OLD)?;
    same!(fleet.ok("ls -A .config")?, "base.yaml");
    Ok(())
}

fn a_base_is_for_what_is_made_from_then_on() -> Outcome {
    let fleet = fleet()?;
    fleet.create("foo", FAKE)?;
    fleet.ok("echo 'cpus: 3' > .config/base.yaml")?;
    fleet.create("bar", FAKE)?;
    same!(fleet.read("foo/lima.yaml"), FAKE);
    same!(fleet.read("bar/lima.yaml"), format!("{FAKE}cpus: 3\n"));
    Ok(())
}

fn networks_are_checked() -> Outcome {
    let fleet = fleet()?;
    let good = "networks:\n  user-v2: {mode: user-v2, gateway: 192.168.104.1, netmask: 255.255.255.0}\n";
    fs::write(fleet.root().join("good"), good)?;
    fs::write(fleet.root().join("wrong"), format!("{good}  lan:\n    mode: host\n    gateway: 10.0.0\n"))?;
    fs::write(fleet.root().join("none"), format!("{good}  lan:\n    mode: lan\n"))?;
    fleet.ok("cp ~/good .config/networks.yaml")?;
    for (file, told) in [
        ("wrong", "networks.yaml: line 5, column 14: networks.lan.gateway: invalid IPv4 address"),
        ("none", "networks.yaml: line 4, column 11: networks.lan.mode: must be one of user-v2, host, shared, bridged"),
    ] {
        ensure!(fleet.sh(&format!("cp ~/{file} .config/networks.yaml"))?.code != 0, "{file} was accepted");
        ensure!(fleet.read(".error").starts_with(told), "{:?}", fleet.read(".error"));
        expect(&fleet, "networks.yaml", Some(good), "a refusal")?;
    }
    Ok(())
}

fn networks_are_shown_with_those_who_name_them() -> Outcome {
    let fleet = fleet()?;
    same!(fleet.ok("cat .networks/user-v2/mode .networks/user-v2/gateway | xargs")?, "user-v2 192.168.104.1");
    fleet.create("foo", &format!("{FAKE}networks: [{{lima: mine}}]\n"))?;
    fleet.ok("echo 'networks: {mine: {mode: user-v2, gateway: 10.0.0.1}}' > .config/networks.yaml")?;
    same!(fleet.ok("ls .networks")?, "mine");
    same!(fleet.ok("cat foo/state > /dev/null; cat .networks/mine/used_by")?, "foo");
    for line in ["mkdir .networks/x", "rmdir .networks/mine", "rmdir .networks", "rm .networks/mine/mode"] {
        refusal(&fleet, line)?;
    }
    fleet.ok("rm .config/networks.yaml")?;
    same!(fleet.ok("ls .networks")?, "user-v2");
    Ok(())
}

fn what_is_no_document_of_config_is_refused() -> Outcome {
    let fleet = fleet()?;
    for name in ["user", "user.pub", "notes", "default.yml", "networks.yml", "x.yaml"] {
        let error = refusal(&fleet, &format!("cp ~/new .config/{name}"))?;
        ensure!(error.contains("only default.yaml, override.yaml, base.yaml, networks.yaml"), "{name}: {error:?}");
        fleet.ok("cp ~/new .config/base.yaml.new")?;
        refusal(&fleet, &format!("mv -f .config/base.yaml.new .config/{name}"))?;
        fleet.ok("cp ~/new .config/base.yaml")?;
        refusal(&fleet, &format!("mv -f .config/base.yaml .config/{name}"))?;
        expect(&fleet, "base.yaml", Some(NEW), "refusals")?;
    }
    ensure!(refusal(&fleet, "mkdir .config/more")?.contains("no directories can be made here"), "no sentence");
    ensure!(refusal(&fleet, "rmdir .config")?.contains(".config: is limafs's own"), "no sentence");
    refusal(&fleet, "mv .config other")?;
    refusal(&fleet, "mv .config/base.yaml base.yaml")?;
    refusal(&fleet, "mv .config/base.yaml .templates/base.yaml")?;
    expect(&fleet, "base.yaml", Some(NEW), "refusals")
}

fn x31_a_writer_of_config_that_dies_half_way_changes_nothing() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/old .config/default.yaml")?;
    let write = "import os; f=open(\".config/T\", \"wb\", 0); f.write(b\"cpus: 1\"); os.kill(os.getpid(), 9)";
    for (name, text) in [("default.yaml", Some(OLD)), ("override.yaml", None)] {
        let ran = fleet.sh(&format!("exec python3 -c '{}'", write.replace('T', name)))?;
        same!(ran.code, 137, "python was to die: {ran:?}");
        expect(&fleet, name, text, "a killed writer")?;
    }
    Ok(())
}
