//! `list`: the table that `limactl list` prints.

use std::path::Path;

use crate::config;
use crate::view::snapshot::Snapshot;

const HEAD: [&str; 9] = ["NAME", "STATUS", "SSH", "VMTYPE", "ARCH", "CPUS", "MEMORY", "DISK", "DIR"];

/// One row an instance, columns padded to their widest cell.
pub fn list<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> String {
    let mut rows: Vec<[String; 9]> = vec![HEAD.map(str::to_owned)];
    rows.extend(snapshots.map(row));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 4));
            }
        }
        text.push('\n');
    }
    text
}

fn row(snapshot: &Snapshot) -> [String; 9] {
    let config = snapshot.loaded().map(|loaded| loaded.filled.clone()).unwrap_or_default();
    let size = |text: Option<String>| {
        text.as_deref().and_then(config::size).map_or_else(|| "-".to_owned(), config::format_size)
    };
    [
        snapshot.name.to_string(),
        snapshot.state().to_string(),
        format!("{}:{}", snapshot.ssh_address(), snapshot.ssh_local_port()),
        config.vm_type.unwrap_or_else(|| "-".into()),
        config.arch.unwrap_or_else(|| "-".into()),
        config.cpus.map_or_else(|| "-".into(), |cpus| cpus.to_string()),
        size(config.memory),
        size(config.disk),
        short(&snapshot.dir, &snapshot.host.user.home),
    ]
}

/// A path with `~` for the user's own directory.
fn short(dir: &Path, home: &Path) -> String {
    match dir.strip_prefix(home) {
        Ok(rest) => Path::new("~").join(rest).display().to_string(),
        Err(_) => dir.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_directory_is_a_tilde() {
        let home = Path::new("/home/me");
        assert_eq!(short(Path::new("/home/me/.lima/foo"), home), "~/.lima/foo");
        assert_eq!(short(Path::new("/home/meme/.lima/foo"), home), "/home/meme/.lima/foo");
    }
}
