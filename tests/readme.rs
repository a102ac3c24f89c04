//! The README's shell blocks, run as written. A block that follows the line `<!-- test -->` runs in the order of
//! the document, each in a shell of its own, in one home, with what the page promises to be there (`~/lima` mounted).

#[path = "common/mod.rs"]
mod common;

use std::process::ExitCode;

use common::{Fleet, Outcome, secs};

fn main() -> ExitCode {
    let all = cases![each_marked_block_runs_as_written];
    common::run("vm", common::suite::lacks_guest(), 1, all)
}

/// A block of shell lines and the line of the README on which it begins.
struct Block {
    line: usize,
    text: String,
}

/// Blocks fenced as `sh` right after a `<!-- test -->` comment.
fn blocks(readme: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = readme.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        if line.trim() != "<!-- test -->" {
            continue;
        }
        if let Some((number, "```sh")) = lines.next() {
            let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            found.push(Block { line: number + 2, text: text.join("\n") });
        }
    }
    found
}

fn each_marked_block_runs_as_written() -> Outcome {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let blocks = blocks(&readme);
    ensure!(blocks.len() >= 4, "only {} blocks are marked to be tested", blocks.len());
    let fleet = Fleet::mounted()?;
    // The page speaks of my.yaml as the user's own.
    fleet.ok("cp .templates/local.yaml ~/my.yaml; mkdir ~/bin")?;
    std::os::unix::fs::symlink(common::fleet::LIMAFS, fleet.root().join("bin/limafs"))?;
    for block in blocks {
        let script = format!("set -e; cd ~; PATH=~/bin:$PATH; unset LIMA_HOME M H\n{}", block.text);
        let ran = fleet.sh_within(&script, secs(240))?;
        ensure!(ran.code == 0, "README.md line {}:\n{}\n{ran:?}", block.line, block.text);
    }
    Ok(())
}
