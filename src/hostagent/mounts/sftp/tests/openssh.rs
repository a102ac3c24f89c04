//! OpenSSH's own `sftp`, which is told to talk to a program instead of to ssh.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;

const BATCH: &str = "pwd
ls -la /
get -p file got
put got sub/put
put -p got sub/put
rename sub/put sub/moved
mkdir dir
rmdir dir
ln -s sub/moved link
ln file hard
get link linked
chmod 600 sub/moved
df /
reget file got
-get up refused
rm sub/deep
";

#[tokio::test]
async fn its_client_reads_writes_and_renames() {
    let mut served = Served::new(true);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tree = served.tree();
    served.servers.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(tree, LIMIT, stream).await.unwrap();
    });
    // Joins its own input and output to the port, as a server program would have them.
    let bridge = served.dir.path().join("bridge");
    fs::write(&bridge, format!("exec 3<>/dev/tcp/127.0.0.1/{port}\ncat <&3 &\ncat >&3\nkill $!\n")).unwrap();
    let mut command = Command::new("sftp");
    command.args(["-b", "-", "-D"]).arg(format!("/bin/bash {}", bridge.display())).current_dir(served.dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return eprintln!("SKIPPED: sftp cannot be run: {error}"),
    };
    child.stdin.take().unwrap().write_all(BATCH.as_bytes()).await.unwrap();
    let output = timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("Remote working directory: /\n"), "{out}");
    assert!(err.to_lowercase().contains("permission denied"), "{err}");
    let read = |path: &str| fs::read_to_string(served.path(path)).unwrap();
    assert_eq!([read("sub/moved"), read("link"), read("hard"), read("../linked")], ["in the tree"; 4]);
    assert!(!served.path("sub/deep").exists() && !served.path("dir").exists());
    assert!(!served.dir.path().join("refused").exists());
}
