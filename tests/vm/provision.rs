//! Provision scripts, environment and parameters in a real guest.

use crate::common::{Case, Fleet, Outcome, wait_until};
use crate::guest::{FAST_BOOT, FULL_BOOT, boot, fast, full, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        scripts_run_in_order_with_env_and_param,
        each_mode_has_its_place_and_probes_come_last,
        a_failing_script_is_named_with_its_exit_code,
        a_failing_script_is_named_by_cloud_init_as_well,
        secrets_are_in_no_log,
    ]
}

fn scripts_run_in_order_with_env_and_param() -> Outcome {
    let fleet = Fleet::mounted()?;
    let more = "env: {COLOUR: blue}\nparam: {size: huge}\nprovision:\n\
        - mode: boot\n  script: echo boot >> /var/tmp/order\n\
        - script: |\n    #!/bin/bash\n    set -eu\n    echo \"system $COLOUR $PARAM_size\" >> /var/tmp/order; chmod 666 /var/tmp/order\n\
        - mode: user\n  script: echo \"user $(whoami) $PARAM_size\" >> /var/tmp/order\n";
    fleet.create("foo", &fast(more)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let user = ssh(&fleet, "foo", "whoami")?;
    let once = format!("boot\nsystem blue huge\nuser {user} huge");
    same!(ssh(&fleet, "foo", "cat /var/tmp/order")?, once);
    stop(&fleet, "foo")?;
    // Lima runs them at every boot.
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat /var/tmp/order")?, format!("{once}\n{once}"));
    stop(&fleet, "foo")
}

const MODES: &str = "param: {word: \"two words\"}\nprovision:\n\
    - mode: user\n  script: echo \"user $(whoami)\" >> /var/tmp/order\n\
    - script: echo \"system $(cat /etc/app/conf)\" >> /var/tmp/order; chmod 666 /var/tmp/order\n\
    - {mode: data, path: /etc/app/conf, content: \"of {{.Name}}\\n\", owner: 'daemon:daemon', permissions: '640'}\n\
    - {mode: data, path: /etc/kept, content: \"first\\n\", overwrite: false}\n\
    - mode: dependency\n  script: 'test -e /etc/app/conf || echo dependency >> /var/tmp/order'\n\
    - mode: boot\n  script: echo boot >> /var/tmp/order\n\
    probes:\n- description: all ran\n  script: |\n    #!/bin/bash\n    grep -q ^user /var/tmp/order\n    \
    [[ $PARAM_word == 'two words' ]] && echo probed >> /var/tmp/order\n";

fn each_mode_has_its_place_and_probes_come_last() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast(MODES)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let user = ssh(&fleet, "foo", "whoami")?;
    let order = format!("boot\ndependency\nsystem of foo\nuser {user}\nprobed");
    same!(ssh(&fleet, "foo", "cat /var/tmp/order")?, order);
    same!(ssh(&fleet, "foo", "stat -c '%U:%G %a' /etc/app /etc/app/conf")?, "daemon:daemon 755\ndaemon:daemon 640");
    ssh(&fleet, "foo", "echo mine | sudo tee /etc/kept /etc/app/conf >/dev/null; sync")?;
    stop(&fleet, "foo")?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat /etc/kept; sudo cat /etc/app/conf")?, "mine\nof foo");
    stop(&fleet, "foo")
}

const FAILING: &str = "provision:\n- script: 'true'\n- script: 'echo this went wrong >&2; exit 7'\n";

fn a_failing_script_is_named_with_its_exit_code() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast(FAILING)?)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FAST_BOOT)?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("provision") && error.contains('7'), "error says {error:?}");
    same!(ssh(&fleet, "foo", "echo usable")?, "usable");
    stop(&fleet, "foo")?;
    // Mended, it runs.
    fleet.create_over("foo", &fast("provision:\n- script: 'true'\n")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(fleet.read("foo/error"), "");
    stop(&fleet, "foo")
}

fn a_failing_script_is_named_by_cloud_init_as_well() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &full(FAILING)?)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FULL_BOOT)?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("provision") && error.contains('7'), "error says {error:?}");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", crate::common::secs(5))
}

fn secrets_are_in_no_log() -> Outcome {
    const CANARY: &str = "S3CR3T-canary-4711";
    let fleet = Fleet::mounted()?;
    let more = format!(
        "env: {{TOKEN: {CANARY}}}\nparam: {{token: {CANARY}}}\nprovision:\n- script: 'test -n \"$PARAM_token\"'\n"
    );
    fleet.create("foo", &fast(&more)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    for file in ["log", "events", "status", "status.json", "error", "serial.log"] {
        // status.json is what limactl prints, configuration and all; nothing else may tell.
        if file != "status.json" {
            ensure!(!fleet.read(&format!("foo/{file}")).contains(CANARY), "{file} tells a secret");
        }
    }
    ensure!(!fleet.read("events").contains(CANARY), "the root's events tell a secret");
    for pid in fleet.processes() {
        ensure!(!crate::common::procs::arguments(pid).concat().contains(CANARY), "an argument list tells a secret");
    }
    // The configuration of the start is kept for as long as its VM is there, and nobody else may read it.
    same!(fleet.ok("stat -c %a $H/foo/limafs.started.yaml")?.trim(), "600");
    same!(
        fleet.ok(&format!("grep -rl {CANARY} $H --exclude=lima.yaml --exclude=limafs.started.yaml --exclude=cidata.iso --exclude=cloud-config.yaml --exclude=disk || true"))?,
        ""
    );
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", crate::common::secs(5))?;
    let kept = fleet.home.join("foo/limafs.started.yaml");
    wait_until("the configuration of a start that is over is gone", crate::common::secs(5), || !kept.exists())
}
