//! Instances that Lima's own tools make, run, rename and delete in the same home.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::Value;

use crate::common::fleet::FAKE;
use crate::common::{Case, Failed, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        status_json_has_the_fields_that_limactl_prints,
        a_stopped_instance_shows_the_port_of_its_last_boot,
        what_lima_runs_is_running_with_its_processes,
        events_tell_of_instances_that_others_make,
    ]
}

fn json(fleet: &Fleet) -> Result<Value, Failed> {
    Ok(serde_json::from_str(&fleet.read("foo/status.json"))?)
}

fn status_json_has_the_fields_that_limactl_prints() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir $H/foo; printf '2.1.1\\n' > $H/foo/lima-version")?;
    fs::write(fleet.home.join("foo/lima.yaml"), format!("{FAKE}message: |\n  one\n  two\n"))?;
    fleet.wait_state("foo", "Stopped", secs(5))?;
    let object = json(&fleet)?;
    let home = fleet.home.display().to_string();
    for (key, value) in [
        ("limaVersion", "2.1.1"),
        ("message", "one\ntwo"),
        ("HostOS", "linux"),
        ("LimaHome", home.as_str()),
        ("IdentityFile", &format!("{home}/_config/user")),
        ("sshConfigFile", &format!("{home}/foo/ssh.config")),
    ] {
        same!(object[key], value, "for {key}");
    }
    same!(object["HostArch"], object["arch"]);
    for key in ["param", "network", "additionalDisks", "errors", "hostAgentPID", "driverPID", "sshLocalPort"] {
        ensure!(object.get(key).is_none(), "{key} is there: {object}");
    }
    for key in ["mounts", "dns", "env", "provision", "vmOpts"] {
        ensure!(object["config"].get(key).is_none(), "config.{key} is there: {object}");
    }
    fs::write(fleet.home.join("foo/lima.yaml"), "images: 5\n")?;
    fleet.wait_state("foo", "Broken", secs(5))?;
    let object = json(&fleet)?;
    same!((&object["vmType"], &object["arch"]), (&Value::from(""), &Value::from("")));
    ensure!(object.get("config").is_none(), "a broken instance has a config: {object}");
    Ok(())
}

fn a_stopped_instance_shows_the_port_of_its_last_boot() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    fleet.ok("printf 'Host lima-foo\\n  Hostname 127.0.0.1\\n  Port 60023\\n' > $H/foo/ssh.config")?;
    wait_until("its port is shown", secs(5), || json(&fleet).is_ok_and(|object| object["sshLocalPort"] == 60023))?;
    ensure!(fleet.read("list").contains(" 127.0.0.1:60023 "), "list: {}", fleet.read("list"));
    ensure!(fleet.read("list").trim_end().ends_with(" ~/.lima/foo"), "list: {}", fleet.read("list"));
    same!(fleet.status("foo", "ssh"), None);
    Ok(())
}

/// Answers as Lima's hostagent does, which knows `/v1/info` alone.
fn answer(stream: UnixStream) {
    let Ok(mut sink) = stream.try_clone() else { return };
    let mut first = String::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if first.is_empty() {
            first = line;
        } else if line.is_empty() {
            let (code, body) = if first.contains(" /v1/info ") {
                ("200 OK", "{\"sshLocalPort\":60022}")
            } else {
                ("404 Not Found", "")
            };
            let length = body.len();
            // Whoever hung up needs no answer.
            let _ = write!(sink, "HTTP/1.1 {code}\r\nContent-Length: {length}\r\n\r\n{body}");
            first.clear();
        }
    }
}

fn what_lima_runs_is_running_with_its_processes() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    let (hostagent, vm) = (fleet.start("exec sleep 600")?, fleet.start("exec sleep 600")?);
    let dir = fleet.home.join("foo");
    fs::write(dir.join("ha.pid"), format!("{}\n", hostagent.pid()))?;
    let listener = UnixListener::bind(dir.join("ha.sock"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    fleet.wait_state("foo", "Running", secs(5))?;
    fs::write(dir.join("fake.pid"), format!("{}\n", vm.pid()))?;
    fs::write(dir.join("qmp.sock"), "")?;
    wait_until("the VM's process is shown", secs(5), || {
        json(&fleet).is_ok_and(|object| object["driverPID"] == vm.pid())
    })?;
    let object = json(&fleet)?;
    same!(object["hostAgentPID"], hostagent.pid());
    same!(object["status"], "Running");
    same!(object["sshLocalPort"], 60022);
    same!(fleet.status("foo", "pids"), Some(format!("hostagent {} vm {}", hostagent.pid(), vm.pid())));
    let started = fs::metadata(dir.join("ha.pid"))?.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    let since = fleet.ok("date -d \"$(jq -r .since foo/status.json)\" +%s")?;
    same!(since, started.as_secs().to_string());
    Ok(())
}

fn events_tell_of_instances_that_others_make() -> Outcome {
    let fleet = Fleet::mounted()?;
    let told = |instance: &str, change: &str| {
        let line = format!("{{\"instance\":\"{instance}\"");
        let change = format!("\"change\":\"{change}\"");
        wait_until(&change, secs(5), || {
            fleet.read("events").lines().filter(|event| event.starts_with(&line) && event.contains(&change)).count()
                == 1
        })
    };
    fleet.ok("mkdir $H/foo")?;
    told("foo", "created")?;
    fleet.ok("mv $H/foo $H/bar")?;
    told("foo", "renamed to bar")?;
    fleet.ok("rmdir $H/bar")?;
    told("bar", "deleted")?;
    fleet.ok("mkdir own; rmdir own; mkdir $H/last")?;
    told("last", "created")?;
    told("own", "created")?;
    told("own", "deleted")
}
