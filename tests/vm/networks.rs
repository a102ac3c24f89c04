//! Networks between instances.

use std::path::Path;

use crate::common::{Case, Fleet, Outcome, secs, wait_until};
use crate::guest::{FAST_BOOT, boot, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![two_guests_reach_each_other_by_name_and_the_switch_ends_with_the_last]
}

fn two_guests_reach_each_other_by_name_and_the_switch_ends_with_the_last() -> Outcome {
    let fleet = Fleet::mounted()?;
    for name in ["foo", "bar"] {
        fleet.create(name, &fast("networks: [{lima: user-v2}]\n")?)?;
    }
    boot(&fleet, "foo", FAST_BOOT)?;
    let switch = fleet.home.join("_networks/user-v2/vde.pid");
    let pid = std::fs::read_to_string(&switch)?;
    boot(&fleet, "bar", FAST_BOOT)?;
    same!(std::fs::read_to_string(&switch)?, pid);
    same!(ssh(&fleet, "foo", "ip -4 -br addr show dev lima0 | awk '{print $3}'")?, "192.168.104.5/24");
    for (from, to) in [("foo", "bar"), ("bar", "foo")] {
        let greeting = format!("timeout 20 bash -c 'head -c 4 < /dev/tcp/lima-{to}.internal/22'");
        same!(ssh(&fleet, from, &greeting)?, "SSH-", "from {from}");
    }
    stop(&fleet, "foo")?;
    ensure!(is_running(&pid), "the switch ended before the last instance");
    stop(&fleet, "bar")?;
    wait_until("the switch's end", secs(10), || !is_running(&pid) && !switch.exists())
}

fn is_running(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}
