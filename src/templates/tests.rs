use std::process::Command;

use super::*;
use crate::config::{self, Context, Layers, Loaded};
use crate::host::{Host, HostUser};
use crate::names::Name;
use limafs_driver::Config;

fn home_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(TEMPLATES_DIR)).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(TEMPLATES_DIR).join(name), text).unwrap();
    }
    let home = Home::at(dir.path());
    (dir, home)
}

/// Paths below `dir`, without the ending.
fn files_below(dir: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        match name.strip_suffix(ENDING) {
            Some(name) => found.push(name.to_owned()),
            None if entry.path().is_dir() => found.extend(files_below(&entry.path(), &format!("{name}/"))),
            None => {}
        }
    }
    found
}

#[test]
fn every_file_of_templates_is_embedded_and_sorted() {
    let mut names = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("templates"), "");
    names.sort();
    assert_eq!(names, EMBEDDED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn parts_are_found_and_not_listed() {
    let home = Home::at("/nonexistent");
    assert!(read(&home, "_images/debian-13").unwrap().contains("trixie"));
    assert!(read(&home, "experimental/gentoo").is_ok());
    let listed = all(&home);
    assert!(listed.iter().any(|(name, _)| name == "debian-13.yaml"));
    assert!(listed.iter().all(|(name, _)| !name.contains('/') && !name.starts_with('_')));
}

#[test]
fn a_home_without_templates_has_ours() {
    let home = Home::at("/nonexistent");
    assert!(user_templates(&home).unwrap().is_empty());
    let (_, local) = EMBEDDED.iter().find(|(name, _)| *name == "local").unwrap();
    assert_eq!(read(&home, "local").unwrap(), *local);
    assert_eq!(read(&home, "local.yaml").unwrap(), *local);
}

#[test]
fn the_users_template_comes_before_ours() {
    let files =
        [("local.yaml", "cpus: 1\n"), ("own.yaml", "cpus: 2\n"), ("_part.yaml", ""), (".x.yaml", ""), ("y", "")];
    let (_dir, home) = home_with(&files);
    assert_eq!(user_templates(&home).unwrap().into_keys().collect::<Vec<_>>(), ["local", "own"]);
    assert_eq!(read(&home, "local").unwrap(), "cpus: 1\n");
    assert_eq!(read(&home, "own").unwrap(), "cpus: 2\n");
    assert_eq!(read(&home, "_part").unwrap(), "");
    // In a directory, too.
    fs::create_dir(home.path().join(TEMPLATES_DIR).join("_images")).unwrap();
    fs::write(home.path().join(TEMPLATES_DIR).join("_images/debian-13.yaml"), "cpus: 3\n").unwrap();
    assert_eq!(read(&home, "_images/debian-13").unwrap(), "cpus: 3\n");
}

#[test]
fn unknown_templates_are_missing_and_bad_names_refused() {
    let (_dir, home) = home_with(&[("own.yaml", "")]);
    assert_eq!(read(&home, "nothing").unwrap_err().to_string(), "template \"nothing\" does not exist");
    for name in ["", "../own", "/etc/passwd", "a//b", "a/../own", "own/", ".own", "_images/.."] {
        assert_eq!(read(&home, name).unwrap_err().errno(), libc::EINVAL, "{name:?}");
    }
}

/// A template with its bases as one document. But for `param`, what one builds on is disjoint from it: a key that were
/// there twice would be a fault.
fn whole(name: &str) -> String {
    let (mut lines, mut params) = (Vec::new(), vec!["param:".to_owned()]);
    gather(name, &mut lines, &mut params);
    if params.len() > 1 {
        lines.extend(params);
    }
    lines.join("\n")
}

fn gather(name: &str, lines: &mut Vec<String>, params: &mut Vec<String>) {
    let text = read(&Home::at("/nonexistent"), name).unwrap();
    let mut in_params = false;
    for line in text.lines().filter(|line| !line.starts_with("base:")) {
        in_params = line == "param:" || (in_params && line.starts_with(' '));
        match line {
            "param:" => {}
            _ if in_params => params.push(line.to_owned()),
            _ => lines.push(line.to_owned()),
        }
    }
    let config: Config = serde_yaml::from_str(&text).unwrap();
    for base in config.base.into_iter().flatten() {
        gather(base.url.strip_prefix("template:").unwrap(), lines, params);
    }
}

fn host() -> Host {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: String::new() };
    let (os, arch, timezone) = ("Linux".into(), "x86_64".into(), "Europe/Berlin".into());
    Host {
        user,
        os,
        arch,
        cpus: 8,
        memory: 16 << 30,
        timezone,
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    }
}

/// Each template, loaded, that is not a part of others.
fn each_loaded(check: impl Fn(&str, &Loaded, &Context)) {
    let (host, instance) = (host(), Name::parse("foo").unwrap());
    let context = Context { name: &instance, dir: "/h/foo".into(), host: &host, layers: Layers::default() };
    for (name, _) in EMBEDDED.iter().filter(|(name, _)| !name.starts_with('_')) {
        let loaded = config::load(whole(name).as_bytes(), &context).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(name, &loaded, &context);
    }
}

#[test]
fn every_template_loads_without_a_fault_or_a_warning() {
    each_loaded(|name, loaded, _| {
        // What limafs does not do is no fault of the template.
        let warnings: Vec<_> = loaded.warnings.iter().filter(|line| !line.ends_with(" by limafs")).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
    });
}

#[test]
fn origins_are_comments_and_nothing_else_in_every_template() {
    each_loaded(|name, loaded, context| {
        let yaml = config::to_yaml(&loaded.filled).unwrap();
        let with_origins = config::yaml_with_origins(whole(name).as_bytes(), context).unwrap();
        let told = config::tests::assert_only_comments(&yaml, &with_origins);
        assert!(told.iter().any(|(_, origin)| origin.starts_with("lima.yaml:")), "{name}: {with_origins}");
    });
}

#[test]
fn every_template_says_how_to_use_what_it_made() {
    each_loaded(|name, loaded, context| {
        let message = config::message(&loaded.filled, context, 60022).unwrap();
        assert!(message.contains("ssh -F") || message.contains("/h/foo/"), "{name}: {message:?}");
        assert!(!message.contains("{{") && !message.contains("<no value>"), "{name}: {message:?}");
    });
}

#[test]
fn every_template_has_an_image_for_its_architecture() {
    each_loaded(|name, loaded, _| {
        let (config, images) = (&loaded.filled, loaded.filled.images.as_deref().unwrap());
        assert!(images.iter().any(|image| image.arch == config.arch), "{name}");
        for image in images {
            let location = image.location.as_deref().unwrap();
            assert!(location.starts_with("https://") || name.starts_with("local"), "{name}: {location}");
        }
    });
}

#[test]
fn every_script_is_one_that_bash_understands() {
    each_loaded(|name, loaded, _| {
        let provision = loaded.filled.provision.iter().flatten().filter_map(|it| it.script.as_ref()?.as_str());
        let probes = loaded.filled.probes.iter().flatten().filter_map(|it| it.script.as_ref()?.as_str());
        for script in provision.chain(probes) {
            assert!(script.starts_with("#!/bin/bash\n") && !script.contains("{{"), "{name}: {script}");
            let output = Command::new("bash").args(["-n", "-c", script]).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
}

#[test]
fn parts_of_templates_may_be_hidden_or_in_directories() {
    let (dir, home) = home_with(&[("_part.yaml", "a"), ("x-24.04.yaml", "b"), ("local.yaml", "c"), ("run.sh", "d")]);
    fs::create_dir(dir.path().join(TEMPLATES_DIR).join("_images")).unwrap();
    fs::write(dir.path().join(TEMPLATES_DIR).join("_images/x.yaml"), "e").unwrap();
    for (name, text) in
        [("_part", "a"), ("x-24.04", "b"), ("local", "c"), ("run.sh", "d"), ("_images/x", "e"), ("local.yaml", "c")]
    {
        assert_eq!(part(&home, name).unwrap(), text.as_bytes(), "{name}");
    }
    assert_eq!(part(&home, "local-fast").unwrap(), read(&home, "local-fast").unwrap().as_bytes());
    for name in ["../x", "/etc/passwd", "a/../b", "", "_images//x", ".hidden"] {
        assert_eq!(part(&home, name).unwrap_err().errno(), libc::EINVAL, "{name:?}");
    }
    assert_eq!(part(&home, "_images/y").unwrap_err().to_string(), "template \"_images/y\" does not exist");
}
