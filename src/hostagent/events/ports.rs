//! Port forwards as events: what Lima's hostagent would say of each that changed. Pure.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::status::{Forward, Status};

/// So many are told of at a time; a guest that opens thousands of ports fills no log.
pub const AT_ONCE: usize = 64;

/// The forwards of a status but the guest's ssh, which is there from the start.
pub fn of(status: &Status) -> Vec<Forward> {
    let ssh = format!("{}:{}", status.ssh_address, status.ssh_local_port);
    status.forwards.iter().filter(|forward| forward.host != ssh).cloned().collect()
}

/// The `portForward` objects for what changed, and how many more there are.
pub fn changes(before: &[Forward], now: &[Forward]) -> (Vec<Value>, usize) {
    let mut known: HashMap<_, _> = before.iter().map(|forward| (end(forward), forward)).collect();
    let mut changes = Vec::new();
    for forward in now {
        let old = known.remove(&end(forward));
        if old.is_none_or(|old| old.state != forward.state) {
            changes.push(object(forward, None));
        }
    }
    let gone = before.iter().filter(|forward| known.contains_key(&end(forward)) && forward.state == "forwarding");
    changes.extend(gone.map(|forward| object(forward, Some("stopping"))));
    let more = changes.len().saturating_sub(AT_ONCE);
    changes.truncate(AT_ONCE);
    (changes, more)
}

fn end(forward: &Forward) -> (&str, &str, &str) {
    (&forward.proto, &forward.host, &forward.guest)
}

fn object(forward: &Forward, kind: Option<&str>) -> Value {
    let error = forward.state.strip_prefix("failed: ").filter(|_| kind.is_none());
    let kind = kind.unwrap_or(match forward.state.as_str() {
        "forwarding" => "forwarding",
        "ignored" => "not-forwarding",
        _ => "failed",
    });
    let mut object = json!({ "type": kind, "protocol": forward.proto, "guestAddr": forward.guest });
    if forward.host != "-" {
        object["hostAddr"] = json!(forward.host);
    }
    if let Some(error) = error {
        object["error"] = json!(error);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(port: u16, state: &str) -> Forward {
        let address = format!("127.0.0.1:{port}");
        let host = if state == "ignored" { "-".into() } else { address.clone() };
        Forward { proto: "tcp".into(), host, guest: address, state: state.into(), reverse: false }
    }

    #[test]
    fn each_change_is_said_once_in_limas_words() {
        let before = [forward(80, "forwarding"), forward(81, "forwarding"), forward(82, "failed: address in use")];
        let now = [forward(80, "forwarding"), forward(82, "forwarding"), forward(83, "ignored")];
        let (said, more) = changes(&before, &now);
        let expected = [
            json!({ "type": "forwarding", "protocol": "tcp", "guestAddr": "127.0.0.1:82", "hostAddr": "127.0.0.1:82" }),
            json!({ "type": "not-forwarding", "protocol": "tcp", "guestAddr": "127.0.0.1:83" }),
            json!({ "type": "stopping", "protocol": "tcp", "guestAddr": "127.0.0.1:81", "hostAddr": "127.0.0.1:81" }),
        ];
        assert_eq!((said.as_slice(), more), (&expected[..], 0));
        assert_eq!(changes(&now, &now), (vec![], 0));
        let failed = changes(&[], &[forward(82, "failed: address in use")]).0;
        assert_eq!((&failed[0]["type"], &failed[0]["error"]), (&json!("failed"), &json!("address in use")));
    }

    #[test]
    fn s22_a_flood_is_cut_and_counted() {
        let now: Vec<_> = (1..=1000).map(|port| forward(port, "forwarding")).collect();
        let (said, more) = changes(&[], &now);
        assert_eq!((said.len(), more), (AT_ONCE, 1000 - AT_ONCE));
    }
}
