//! Ports of Kubernetes' services, which no socket stands for: heard from `kubectl get service --watch`, if there is one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Port, Ports};

const RETRY: Duration = Duration::from_secs(10);
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// So long nothing more must come before what came is told: a watch begins with all services, one after another.
const SETTLE: Duration = Duration::from_millis(200);
/// An object of Kubernetes has at most 1.5 MiB, a third of that in practice for a service.
const OBJECT_MAX: usize = 2 << 20;
const SERVICES_MAX: usize = 4096;
const KUBECONFIGS: [&str; 3] = ["/etc/rancher/k3s/k3s.yaml", "/root/.kube/config.localhost", "/root/.kube/config"];

#[derive(Debug, Deserialize)]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    object: Service,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    protocol: String,
    port: u16,
    node_port: u16,
}

/// Tells the ports as long as anybody listens; tries again and again.
pub async fn follow(ports: watch::Sender<Ports>) {
    while !ports.is_closed() {
        if let Err(error) = watch_once(&ports).await {
            tracing::debug!("kubectl: {error}");
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = ports.closed() => return,
        }
    }
}

async fn watch_once(ports: &watch::Sender<Ports>) -> io::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|dir| dir.join("kubectl").exists()) {
        return Err(io::Error::other("is not installed"));
    }
    let asked = kubectl(&["auth", "can-i", "get", "service"]).output();
    let answer = timeout(ASK_LIMIT, asked).await??;
    if answer.stdout.trim_ascii() != b"yes" {
        return Err(io::Error::other("services cannot be read"));
    }
    let watch = ["get", "--all-namespaces", "service", "--watch", "--output-watch-events", "--output", "json"];
    let mut child = kubectl(&watch).spawn()?;
    let output = child.stdout.take().ok_or_else(|| io::Error::other("has no output"))?;
    read(output, ports).await
}

/// Ends with its handle.
fn kubectl(arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    if env::var_os("KUBECONFIG").is_none()
        && let Some(file) = KUBECONFIGS.into_iter().find(|file| Path::new(file).exists())
    {
        command.env("KUBECONFIG", file);
    }
    command
}

/// Reads a watch to its end.
async fn read(mut output: impl AsyncRead + Unpin, ports: &watch::Sender<Ports>) -> io::Result<()> {
    let mut services = Services::default();
    let mut unread = Vec::new();
    let mut is_told = true;
    loop {
        let limit = if is_told { Duration::MAX } else { SETTLE };
        let came = tokio::select! {
            // Cancel-safe: what is read is in `unread`.
            came = timeout(limit, output.read_buf(&mut unread)) => came,
            () = ports.closed() => return Ok(()),
        };
        match came {
            Ok(Ok(0)) | Err(_) => {
                ports.send_if_modified(|last| {
                    let now = services.ports();
                    let differs = *last != now;
                    *last = now;
                    differs
                });
                if came.is_ok() {
                    return Err(io::Error::other("the watch ended"));
                }
                is_told = true;
            }
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) => {
                services.take(&mut unread)?;
                is_told = false;
            }
        }
    }
}

/// The ports of each service, by namespace and name.
#[derive(Debug, Default)]
struct Services(BTreeMap<(String, String), Vec<Port>>);

impl Services {
    /// Takes whole documents out of what was read.
    fn take(&mut self, unread: &mut Vec<u8>) -> io::Result<()> {
        let mut documents = serde_json::Deserializer::from_slice(unread).into_iter::<Change>();
        let mut used = 0;
        loop {
            match documents.next() {
                Some(Ok(change)) => self.apply(change),
                Some(Err(error)) if !error.is_eof() => return Err(error.into()),
                _ => break,
            }
            used = documents.byte_offset();
        }
        unread.drain(..used);
        if unread.len() > OBJECT_MAX { Err(io::Error::other("an object is too large")) } else { Ok(()) }
    }

    fn apply(&mut self, Change { kind, object }: Change) {
        let key = (object.metadata.namespace, object.metadata.name);
        match kind.as_str() {
            "DELETED" => drop(self.0.remove(&key)),
            "ADDED" | "MODIFIED" if self.0.len() < SERVICES_MAX || self.0.contains_key(&key) => {
                self.0.insert(key, outside(&object.spec));
            }
            _ => {}
        }
    }

    fn ports(&self) -> Ports {
        self.0.values().flatten().cloned().collect()
    }
}

/// The ports that a service has on the guest itself.
fn outside(spec: &Spec) -> Vec<Port> {
    let number = |port: &ServicePort| match spec.kind.as_str() {
        "NodePort" => port.node_port,
        "LoadBalancer" => port.port,
        _ => 0,
    };
    let entry = |port: &ServicePort| {
        let protocol = port.protocol.to_ascii_lowercase();
        let is_known = matches!(protocol.as_str(), "tcp" | "udp") && number(port) != 0;
        is_known.then(|| Port::new(&protocol, Ipv4Addr::UNSPECIFIED.into(), number(port)))
    };
    spec.ports.iter().take(SERVICES_MAX).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &str, name: &str, spec: &str) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","namespace":"a",
            "labels":{{"x":"}}"}}}},"spec":{{{spec}}},"status":{{"loadBalancer":{{}}}}}}}}"#
        )
    }

    const NODE: &str =
        r#""type":"NodePort","ports":[{"protocol":"TCP","port":80,"targetPort":"http","nodePort":30080}]"#;
    const BALANCER: &str = r#""type":"LoadBalancer","ports":[{"protocol":"UDP","port":53,"nodePort":30053},
        {"protocol":"SCTP","port":54}]"#;
    const INTERNAL: &str = r#""type":"ClusterIP","clusterIP":"10.43.0.1","ports":[{"protocol":"TCP","port":443}]"#;

    fn ports(services: &Services) -> Vec<(String, u16)> {
        services.ports().into_iter().map(|port| (port.protocol, port.port)).collect()
    }

    #[test]
    fn services_come_change_and_go_in_pieces_of_any_size() {
        let stream = [
            change("ADDED", "one", NODE),
            change("ADDED", "two", BALANCER),
            change("ADDED", "three", INTERNAL),
            change("MODIFIED", "one", BALANCER),
            change("BOOKMARK", "four", NODE),
            change("DELETED", "two", BALANCER),
            change("ADDED", "five", NODE),
        ]
        .join("\n");
        for size in [1, 7, 100, stream.len()] {
            let (mut services, mut unread) = (Services::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                unread.extend_from_slice(piece);
                services.take(&mut unread).unwrap();
            }
            assert_eq!(ports(&services), [("tcp".into(), 30080), ("udp".into(), 53)], "{size}");
        }
    }

    #[test]
    fn what_is_no_json_or_never_ends_is_refused() {
        assert!(Services::default().take(&mut b"error: no such thing".to_vec()).is_err());
        let mut endless = b"{\"type\":\"".to_vec();
        endless.resize(OBJECT_MAX + 1, b'x');
        assert!(Services::default().take(&mut endless).is_err());
    }

    #[tokio::test]
    async fn a_watch_tells_once_it_has_said_all_that_there_is() {
        let (mut kubectl, output) = tokio::io::duplex(1 << 16);
        let (sender, mut receiver) = watch::channel(Ports::new());
        let reading = tokio::spawn(async move { read(output, &sender).await });
        for text in [change("ADDED", "one", NODE), change("ADDED", "two", BALANCER)] {
            tokio::io::AsyncWriteExt::write_all(&mut kubectl, text.as_bytes()).await.unwrap();
        }
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow_and_update().len(), 2);
        drop(kubectl);
        assert!(reading.await.unwrap().is_err());
    }
}
