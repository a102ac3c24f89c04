//! What a lima.yaml is built upon, and what the home puts above and below it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use crate::common::fleet::FAKE;
use crate::common::{Case, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        d18_a_document_is_stored_with_all_that_it_is_built_upon,
        d14_a_loop_of_bases_is_refused_and_named,
        d16_a_base_must_have_its_digest,
        s26_a_base_over_http_needs_its_digest,
        a_rename_never_waits_for_the_network,
        the_homes_base_is_for_new_instances_alone,
        d19_what_the_home_puts_above_and_below_is_in_effect_at_once,
        a_fault_above_a_document_names_its_file,
        d17_a_file_that_is_no_text_is_stored_as_binary,
        origins_name_the_files_of_the_home_and_follow_their_changes,
    ]
}

fn with_files(files: &[(&str, &str)]) -> Result<Fleet, libtest_mimic::Failed> {
    let fleet = Fleet::mounted()?;
    for (file, text) in files {
        let path = fleet.home.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&fleet.home))?;
        fs::write(path, text)?;
    }
    Ok(fleet)
}

fn d18_a_document_is_stored_with_all_that_it_is_built_upon() -> Outcome {
    let fleet = with_files(&[
        ("_templates/_parts/disk.yaml", "provision:\n- file: setup.sh\ndisk: 5GiB\n"),
        ("_templates/_parts/setup.sh", "#!/bin/sh\necho set up\n"),
    ])?;
    let script = fleet.root().join("own.sh");
    fs::write(&script, "#!/bin/sh\necho own\n")?;
    let text = format!(
        "# mine\nbase: template:_parts/disk\n{FAKE}# the end of all\nprovision:\n- file: {} # own\n",
        script.display()
    );
    fleet.create("foo", &text)?;
    let stored = "# mine\nvmType: fake\nimages:\n- location: /etc/profile\n# the end of all\nprovision:\n\
                  - script: |\n    #!/bin/sh\n    echo set up\n# own\n- script: |\n    #!/bin/sh\n    echo own\ndisk: 5GiB\n";
    same!(fs::read_to_string(fleet.home.join("foo/lima.yaml"))?, stored);
    same!(fleet.read("foo/lima.yaml"), stored);
    same!(fleet.read("foo/error"), "");
    // What stands alone stays as it is.
    fleet.ok("cp foo/lima.yaml ~/copy && cp ~/copy foo/lima.yaml")?;
    same!(fleet.read("foo/lima.yaml"), stored);
    Ok(())
}

fn d14_a_loop_of_bases_is_refused_and_named() -> Outcome {
    let fleet = with_files(&[("_templates/a.yaml", "base: template:b\n"), ("_templates/b.yaml", "base: a.yaml\n")])?;
    fleet.create("foo", FAKE)?;
    fs::write(fleet.root().join("loop.yaml"), format!("base: template:a\n{FAKE}"))?;
    let ran = fleet.sh("cp ~/loop.yaml foo/lima.yaml")?;
    ensure!(ran.code != 0, "a loop was accepted");
    let error = fleet.read("foo/error");
    ensure!(error.contains("base: loop: template:a -> template:b -> template:a"), "{error}");
    same!(fleet.read("foo/lima.yaml"), FAKE);
    fs::write(fleet.home.join("_templates/a.yaml"), "memory: lots\n")?;
    ensure!(fleet.sh("cp ~/loop.yaml foo/lima.yaml")?.code != 0, "a bad base was accepted");
    same!(fleet.read("foo/error").trim_end(), "lima.yaml: memory: invalid size \"lots\" (such as 4GiB)");
    Ok(())
}

fn d16_a_base_must_have_its_digest() -> Outcome {
    let fleet = with_files(&[("_templates/a.yaml", "cpus: 1\n")])?;
    let zeros = "0".repeat(64);
    fs::write(fleet.root().join("bad.yaml"), format!("base: {{url: 'template:a', digest: 'sha256:{zeros}'}}\n{FAKE}"))?;
    let ran = fleet.sh("mkdir foo && cp ~/bad.yaml foo/lima.yaml")?;
    ensure!(ran.code != 0, "a wrong digest was accepted");
    let error = fleet.read("foo/error");
    ensure!(error.contains("template:a: digest is sha256:"), "{error}");
    same!(fleet.state("foo"), "Uninitialized");
    fleet.ok(
        "d=$(sha256sum ~/.lima/_templates/a.yaml | cut -d' ' -f1); sed \"s/0\\{64\\}/$d/\" ~/bad.yaml > foo/lima.yaml",
    )?;
    same!(fleet.read("foo/lima.yaml"), format!("{FAKE}cpus: 1\n"));
    Ok(())
}

/// The URL of a server that gives `text` to the first who asks.
fn serve(text: &'static str) -> Result<String, libtest_mimic::Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/x.yaml", listener.local_addr()?);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        // The request is small, and all of them get the same answer.
        let _ = stream.read(&mut [0; 1024])?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    });
    Ok(url)
}

fn s26_a_base_over_http_needs_its_digest() -> Outcome {
    let fleet = Fleet::mounted()?;
    let url = serve("cpus: 3\n")?;
    fs::write(fleet.root().join("bare.yaml"), format!("base: {url}\n{FAKE}"))?;
    ensure!(fleet.sh("mkdir foo && cp ~/bare.yaml foo/lima.yaml")?.code != 0, "accepted without a digest");
    let error = fleet.read("foo/error");
    ensure!(error.contains("needs a digest"), "{error}");
    let digest = fleet.ok("printf 'cpus: 3\\n' | sha256sum | cut -d' ' -f1")?;
    let base = format!("base:\n  url: {url}\n  digest: sha256:{}\n{FAKE}", digest.trim());
    fleet.create_over("foo", &base)?;
    same!(fleet.read("foo/lima.yaml"), format!("{FAKE}cpus: 3\n"));
    Ok(())
}

fn a_rename_never_waits_for_the_network() -> Outcome {
    let fleet = with_files(&[("_templates/a.yaml", "cpus: 1\n")])?;
    fleet.create("foo", FAKE)?;
    // Nobody is asked at that address, or this would take long.
    fs::write(fleet.root().join("far.yaml"), format!("base: https://192.0.2.1/x\n{FAKE}"))?;
    fs::write(fleet.root().join("near.yaml"), format!("base: template:a\n{FAKE}"))?;
    let ran = fleet.sh_within("cp ~/far.yaml foo/lima.yaml.new && mv foo/lima.yaml.new foo/lima.yaml", secs(5))?;
    ensure!(ran.code != 0, "the rename was accepted");
    let error = fleet.read("foo/error");
    ensure!(error.contains("https://192.0.2.1/x is to be downloaded, for which a rename cannot wait"), "{error}");
    fleet.ok("cp ~/near.yaml foo/lima.yaml.new && mv foo/lima.yaml.new foo/lima.yaml")?;
    same!(fleet.read("foo/lima.yaml"), format!("{FAKE}cpus: 1\n"));
    Ok(())
}

fn the_homes_base_is_for_new_instances_alone() -> Outcome {
    let fleet = with_files(&[("_config/base.yaml", "provision:\n- script: x\n")])?;
    fleet.create("foo", FAKE)?;
    let stored = format!("{FAKE}provision:\n- script: x\n");
    same!(fleet.read("foo/lima.yaml"), stored);
    fleet.create_over("foo", &stored)?;
    same!(fleet.read("foo/lima.yaml"), stored);
    Ok(())
}

fn d19_what_the_home_puts_above_and_below_is_in_effect_at_once() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &format!("cpus: 2\n{FAKE}"))?;
    fleet.ok("mkdir ~/.lima/_config && echo 'cpus: 1\nmemory: 1GiB' > ~/.lima/_config/default.yaml")?;
    let effective = || fleet.read("foo/effective.yaml");
    wait_until("default.yaml in effect", secs(10), || effective().contains("memory: 1GiB"))?;
    ensure!(effective().contains("cpus: 2\n"), "{}", effective());
    fleet.ok("echo 'cpus: 3' > ~/.lima/_config/override.yaml")?;
    wait_until("override.yaml in effect", secs(10), || effective().contains("cpus: 3\n"))?;
    fleet.ok("rm ~/.lima/_config/*.yaml")?;
    wait_until("neither in effect", secs(10), || {
        effective().contains("cpus: 2\n") && !effective().contains("memory: 1GiB")
    })?;
    Ok(())
}

fn a_fault_above_a_document_names_its_file() -> Outcome {
    let fleet = with_files(&[("_config/override.yaml", "cpus: many\n")])?;
    fs::write(fleet.root().join("good.yaml"), FAKE)?;
    let ran = fleet.sh("mkdir foo && cp ~/good.yaml foo/lima.yaml")?;
    ensure!(ran.code != 0, "accepted under a bad override.yaml");
    let error = fleet.read("foo/error");
    ensure!(error.contains("_config/override.yaml: line 1, column 7: cpus: invalid number"), "{error}");
    Ok(())
}

fn origins_name_the_files_of_the_home_and_follow_their_changes() -> Outcome {
    let fleet = with_files(&[("_config/default.yaml", "# all\ncpus: 1\nmemory: 1GiB\n")])?;
    fleet.create("foo", &format!("{FAKE}cpus: 2\n"))?;
    let line = fleet.read("foo/lima.yaml").lines().count();
    fleet.ok(&format!("grep -x 'cpus: 2 # lima.yaml:{line}' foo/effective.origins.yaml"))?;
    fleet.ok("grep -x 'memory: 1GiB # _config/default.yaml:3' foo/effective.origins.yaml")?;
    fleet.ok("grep -x 'tpm: false # built in' foo/effective.origins.yaml")?;
    fleet.ok("test $(sed 's/ # .*//' foo/effective.origins.yaml | cmp - foo/effective.yaml && echo same) = same")?;
    fs::write(fleet.home.join("_config/default.yaml"), "memory: 1GiB\n")?;
    let follows = "grep -qx 'memory: 1GiB # _config/default.yaml:1' foo/effective.origins.yaml";
    wait_until("the origins follow", secs(10), || fleet.sh(follows).is_ok_and(|ran| ran.code == 0))
}

fn d17_a_file_that_is_no_text_is_stored_as_binary() -> Outcome {
    let fleet = Fleet::mounted()?;
    let program = fleet.root().join("program");
    fs::write(&program, b"\x7fELF\0\xff")?;
    fleet.create("foo", &format!("{FAKE}provision:\n- mode: data\n  path: /p\n  file: {}\n", program.display()))?;
    let stored = fleet.read("foo/lima.yaml");
    ensure!(stored.ends_with("- mode: data\n  path: /p\n  content: !!binary |\n    f0VMRgD/\n"), "{stored}");
    fleet.ok("grep -q 'content: !!binary f0VMRgD/$' foo/effective.yaml")?;
    fleet.ok("grep -q 'content: !!binary f0VMRgD/ # lima.yaml:[0-9]*$' foo/effective.origins.yaml")?;
    let status: serde_json::Value = serde_json::from_str(&fleet.read("foo/status.json"))?;
    same!(status["config"]["provision"][0]["content"], "\u{7f}ELF\0\u{fffd}");
    Ok(())
}
