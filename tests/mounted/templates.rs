//! `.templates/`: the user's own are documents like any other; those of the program stay as they are.

use std::fs;

use crate::common::{Case, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        templates_are_written_by_every_tool,
        templates_are_replaced_by_every_tool,
        a_template_that_is_refused_leaves_the_old_one,
        a_template_of_the_program_stays,
        the_schema_is_shown_and_stays,
        a_template_of_the_user_is_removed_and_renamed,
        templates_and_editors,
        what_looks_like_a_template_and_is_none_is_refused,
        templates_that_others_change_are_seen,
        a_template_by_the_name_of_a_shipped_one_counts_and_goes,
        a_template_makes_an_instance,
        x31_a_writer_of_a_template_that_dies_half_way_changes_nothing,
    ]
}

const MINE: &str = "# mine\nvmType: fake\nimages:\n- location: /etc/profile   # any file\n";
const PART: &str = "# a base\ncpus: 2\n";
const BAD: &str = "cpus: many\n";

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
    for (name, text) in [("mine", MINE), ("part", PART), ("bad", BAD)] {
        fs::write(fleet.root().join(format!("{name}.yaml")), text)?;
    }
    Ok(fleet)
}

/// What the tree shows and what is on disk must both be this; `None` for no such template.
fn expect(fleet: &Fleet, name: &str, text: Option<&str>, after: &str) -> Outcome {
    let shown = fs::read_to_string(fleet.mnt.join(".templates").join(name)).ok();
    same!(shown.as_deref(), text, "in the tree after {after}");
    let stored = fs::read_to_string(fleet.home.join("_templates").join(name)).ok();
    same!(stored.as_deref(), text, "on disk after {after}");
    let listed = fleet.ok("ls -A .templates")?.lines().any(|line| line == name);
    same!(listed, text.is_some(), "listed after {after}");
    Ok(())
}

fn refusal(fleet: &Fleet, line: &str, says: &str) -> Result<String, libtest_mimic::Failed> {
    let ran = fleet.sh(line)?;
    ensure!(ran.code != 0 && ran.err.contains(says), "{line}: {ran:?}");
    Ok(fleet.read(".error"))
}

fn templates_are_written_by_every_tool() -> Outcome {
    let fleet = fleet()?;
    for (number, line) in WRITERS.iter().enumerate() {
        let name = format!("t{number}.yaml");
        fleet.ok(&format!("F=$HOME/mine.yaml; T=.templates/{name}; {line}"))?;
        expect(&fleet, &name, Some(MINE), line)?;
        same!(fleet.read(".error"), "", "after {line}");
        same!(fleet.ok(&format!("stat -c '%s %a' .templates/{name}"))?, format!("{} 600", MINE.len()));
    }
    Ok(())
}

fn templates_are_replaced_by_every_tool() -> Outcome {
    let fleet = fleet()?;
    for line in WRITERS {
        fleet.ok("cp ~/part.yaml .templates/t.yaml")?;
        expect(&fleet, "t.yaml", Some(PART), "cp")?;
        fleet.ok(&format!("F=$HOME/mine.yaml; T=.templates/t.yaml; {line}"))?;
        expect(&fleet, "t.yaml", Some(MINE), line)?;
    }
    let before = fleet.ok("stat -c %.Y .templates/t.yaml")?;
    fleet.ok("echo 'cpus: 3' >> .templates/t.yaml")?;
    expect(&fleet, "t.yaml", Some(&format!("{MINE}cpus: 3\n")), ">>")?;
    ensure!(fleet.ok("stat -c %.Y .templates/t.yaml")? != before, "the same mtime");
    Ok(())
}

fn a_template_that_is_refused_leaves_the_old_one() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/part.yaml .templates/t.yaml")?;
    // install(1) removes what is there before it writes.
    for line in WRITERS.iter().filter(|line| !line.starts_with("install")) {
        let ran = fleet.sh(&format!("F=$HOME/bad.yaml; T=.templates/t.yaml; {line}"))?;
        ensure!(ran.code != 0, "{line} did not notice: {ran:?}");
        expect(&fleet, "t.yaml", Some(PART), line)?;
        let error = fleet.read(".error");
        ensure!(error.contains("t.yaml: line 1, column 7: cpus"), "after {line}: {error:?}");
        let ran = fleet.sh(&format!("F=$HOME/bad.yaml; T=.templates/new.yaml; {line}"))?;
        ensure!(ran.code != 0, "{line} did not notice: {ran:?}");
        expect(&fleet, "new.yaml", None, line)?;
        fleet.ok("rm -f .templates/*.new .templates/.t* .templates/.new*; cp ~/part.yaml .templates/t.yaml")?;
        same!(fleet.read(".error"), "", "a good one clears it");
    }
    fleet.sh(": > .templates/t.yaml")?;
    expect(&fleet, "t.yaml", Some(PART), "a write of nothing")?;
    ensure!(fleet.read(".error").contains("t.yaml: there is nothing in it"), "{:?}", fleet.read(".error"));
    Ok(())
}

fn a_template_of_the_program_stays() -> Outcome {
    let fleet = fleet()?;
    let before = fleet.read(".templates/local.yaml");
    let lines = [
        "cp ~/mine.yaml .templates/local.yaml",
        "echo x >> .templates/local.yaml",
        "rm -f .templates/local.yaml",
        "mv .templates/local.yaml .templates/other.yaml",
        "cp ~/mine.yaml .templates/m.yaml && mv -f .templates/m.yaml .templates/local.yaml",
        "cp ~/mine.yaml .templates/x.new && mv -f .templates/x.new .templates/local.yaml",
        "sed -i s/cpus/cpu/ .templates/local.yaml",
    ];
    for line in lines {
        let error = refusal(&fleet, line, "Operation not permitted")?;
        ensure!(error.contains("local.yaml: belongs to limafs"), "{line}: {error:?}");
        same!(fleet.read(".templates/local.yaml"), before, "after {line}");
    }
    same!(fleet.ok("stat -c %a .templates/local.yaml")?, "400");
    ensure!(!fleet.home.join("_templates/local.yaml").exists(), "a copy of it is on disk");
    Ok(())
}

fn the_schema_is_shown_and_stays() -> Outcome {
    let fleet = fleet()?;
    let schema = fleet.read(".templates/lima.schema.json");
    let value: serde_json::Value = serde_json::from_str(&schema)?;
    same!(value["additionalProperties"], serde_json::json!(false));
    same!(value["properties"]["cpus"]["type"], serde_json::json!(["integer", "null"]));
    same!(fleet.ok("stat -c '%s %a' .templates/lima.schema.json")?, format!("{} 400", schema.len()));
    let name = ".templates/lima.schema.json";
    let lines = [
        format!("echo x > {name}"),
        format!("rm -f {name}"),
        format!("mv {name} .templates/x.json"),
        format!("cp ~/mine.yaml .templates/x.new && mv -f .templates/x.new {name}"),
        format!("cp ~/mine.yaml .templates/m.yaml && mv -f .templates/m.yaml {name}"),
    ];
    for line in lines {
        refusal(&fleet, &line, "Operation not permitted")?;
        same!(fleet.read(name), schema, "after {line}");
    }
    Ok(())
}

fn a_template_of_the_user_is_removed_and_renamed() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/mine.yaml .templates/a.yaml && mv .templates/a.yaml .templates/b.yaml")?;
    expect(&fleet, "a.yaml", None, "mv")?;
    expect(&fleet, "b.yaml", Some(MINE), "mv")?;
    fleet.ok("cp ~/part.yaml .templates/c.yaml && mv .templates/c.yaml .templates/b.yaml")?;
    expect(&fleet, "b.yaml", Some(PART), "mv onto another")?;
    fleet.ok("rm .templates/b.yaml")?;
    expect(&fleet, "b.yaml", None, "rm")?;
    expect(&fleet, "c.yaml", None, "mv onto another")
}

fn templates_and_editors() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/part.yaml .templates/t.yaml")?;
    let vim = "vim -u NONE -es";
    for (line, cpus) in [
        (format!("{vim} -c '%s/2$/3/' -c wq .templates/t.yaml"), 3),
        (format!("{vim} -c 'set backup writebackup backupcopy=no' -c '%s/3$/4/' -c wq .templates/t.yaml"), 4),
        ("sed -i 's/4$/5/' .templates/t.yaml".into(), 5),
        ("sed -i.bak 's/5$/6/' .templates/t.yaml".into(), 6),
        (
            "ln -s me@host.1 '.templates/.#t.yaml' && sed -i 's/6$/7/' .templates/t.yaml && rm '.templates/.#t.yaml'"
                .into(),
            7,
        ),
        (format!("{vim} -c 'w! .templates/t.yaml' -c q ~/part.yaml; sed -i 's/2$/8/' .templates/t.yaml"), 8),
    ] {
        fleet.ok(&line)?;
        expect(&fleet, "t.yaml", Some(&PART.replace('2', &cpus.to_string())), &line)?;
    }
    let own: Vec<_> = fs::read_dir(fleet.home.join("_templates"))?.map(|entry| entry.map(|e| e.file_name())).collect();
    same!(own.len(), 1, "scratch is on disk: {own:?}");
    Ok(())
}

fn what_looks_like_a_template_and_is_none_is_refused() -> Outcome {
    let fleet = fleet()?;
    for name in ["my.yml", "_part.yaml", "notes"] {
        let error = refusal(&fleet, &format!("cp ~/mine.yaml .templates/{name}"), "Operation not permitted")?;
        ensure!(error.contains("a template is called NAME.yaml"), "{name}: {error:?}");
    }
    refusal(&fleet, "mkdir .templates/more", "Operation not permitted")?;
    refusal(&fleet, "cp ~/mine.yaml .templates/a.yaml && mv .templates/a.yaml .", "")?;
    expect(&fleet, "a.yaml", Some(MINE), "a refused mv")
}

fn templates_that_others_change_are_seen() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("ls .templates > /dev/null")?;
    let dir = fleet.home.join("_templates");
    let shown = |text: Option<&str>| {
        let now = || fs::read_to_string(fleet.mnt.join(".templates/t.yaml")).ok();
        wait_until(&format!("it is {text:?}"), secs(5), || now().as_deref() == text)
    };
    fs::create_dir(&dir)?;
    fs::write(dir.join("t.yaml"), PART)?;
    shown(Some(PART))?;
    fs::write(dir.join("t.yaml"), MINE)?;
    shown(Some(MINE))?;
    fs::rename(dir.join("t.yaml"), dir.join("u.yaml"))?;
    shown(None)?;
    same!(fleet.read(".templates/u.yaml"), MINE);
    fs::remove_dir_all(&dir)?;
    wait_until("u.yaml is gone", secs(5), || !fleet.mnt.join(".templates/u.yaml").exists())?;
    fs::create_dir(&dir)?;
    fs::write(dir.join("t.yaml"), MINE)?;
    shown(Some(MINE))
}

fn a_template_by_the_name_of_a_shipped_one_counts_and_goes() -> Outcome {
    let fleet = fleet()?;
    let shipped = fleet.read(".templates/local.yaml");
    fs::create_dir_all(fleet.home.join("_templates"))?;
    fs::write(fleet.home.join("_templates/local.yaml"), PART)?;
    wait_until("the user's own counts", secs(5), || fleet.read(".templates/local.yaml") == PART)?;
    fleet.ok("echo 'memory: 1GiB' >> .templates/local.yaml && rm .templates/local.yaml")?;
    same!(fleet.read(".templates/local.yaml"), shipped);
    Ok(())
}

fn a_template_makes_an_instance() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/mine.yaml .templates/ && mkdir foo && cp .templates/mine.yaml foo/lima.yaml")?;
    same!(fleet.state("foo"), "Stopped");
    same!(fleet.read("foo/lima.yaml"), MINE);
    Ok(())
}

fn x31_a_writer_of_a_template_that_dies_half_way_changes_nothing() -> Outcome {
    let fleet = fleet()?;
    fleet.ok("cp ~/part.yaml .templates/t.yaml")?;
    let write = "import os; f=open(\".templates/T\", \"wb\", 0); f.write(b\"cpus: 1\"); os.kill(os.getpid(), 9)";
    for (name, text) in [("t.yaml", Some(PART)), ("new.yaml", None)] {
        let ran = fleet.sh(&format!("exec python3 -c '{}'", write.replace('T', name)))?;
        same!(ran.code, 137, "python was to die: {ran:?}");
        expect(&fleet, name, text, "a killed writer")?;
    }
    Ok(())
}
