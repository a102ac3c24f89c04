//! `README.md` of the tree, made from the node tables, so that it cannot be wrong.

use crate::status::{State, Verb};
use crate::view::config_dir::ConfigFile;
use crate::view::disks::DiskFile;
use crate::view::drivers_dir::DriverFile;
use crate::view::images::ImageFile;
use crate::view::jobs::JobFile;
use crate::view::networks_dir::NetworkFile;
use crate::view::node::{
    Body, CONFIG_DIR, DISKS_DIR, DRIVERS_DIR, GUEST_DIR, IMAGES_DIR, INSTANCE, JOBS_DIR, NETWORKS_DIR, ROOT, ROOT_LINK,
    SOCKETS_DIR, TEMPLATES_DIR, WAIT_DIR,
};

pub fn readme() -> String {
    let mut text = String::from(
        "# Virtual machines as files\n\n\
         A directory is an instance. No command is needed but the shell's own:\n\n    \
         mkdir foo && cp .templates/local.yaml foo/lima.yaml\n    \
         echo start > foo/state && cat foo/wait/Running\n    \
         ssh -F foo/ssh.config lima-foo\n    \
         echo stop > foo/state; rmdir foo\n\n\
         A refused write says why in `error` beside it, or in `.error` here.\n\n## Here\n\n",
    );
    for node in ROOT {
        text.push_str(&format!("- `{}`: {}\n", node.name, node.doc));
    }
    for file in ImageFile::ALL {
        text.push_str(&format!("- `{IMAGES_DIR}/NAME/{}`: {}\n", file.name(), file.doc()));
    }
    text.push_str(&format!(
        "- `{TEMPLATES_DIR}/NAME.yaml`: templates to copy; takes your own; `lima.schema.json` is for editors\n"
    ));
    for file in DiskFile::ALL {
        let takes = if file.takes_writes() { " (takes writes)" } else { "" };
        text.push_str(&format!("- `{DISKS_DIR}/NAME/{}`{takes}: {}\n", file.name(), file.doc()));
    }
    for file in NetworkFile::ALL {
        text.push_str(&format!("- `{NETWORKS_DIR}/NAME/{}`: {}\n", file.name(), file.doc()));
    }
    for file in DriverFile::ALL {
        text.push_str(&format!("- `{DRIVERS_DIR}/NAME/{}`: {}\n", file.name(), file.doc()));
    }
    for file in ConfigFile::ALL {
        let takes = if file.takes_writes() { " (takes writes)" } else { "" };
        text.push_str(&format!("- `{CONFIG_DIR}/{}`{takes}: {}\n", file.name(), file.doc()));
    }
    text.push_str("\n## In an instance\n\n");
    for node in INSTANCE {
        let takes =
            if matches!(node.body, Body::Show(_) | Body::Asked(_) | Body::Log(_)) { "" } else { " (takes writes)" };
        text.push_str(&format!("- `{}`{takes}: {}\n", node.name, node.doc));
    }
    text.push_str(&format!("- `{ROOT_LINK}`: the files of its guest while it runs; leads to `{GUEST_DIR}/NAME`\n"));
    for file in JobFile::ALL {
        let takes = if file.takes_writes() { " (takes writes)" } else { "" };
        text.push_str(&format!("- `{JOBS_DIR}/NAME/{}`{takes}: {}\n", file.name(), file.doc()));
    }
    text.push_str(&format!(
        "- `{SOCKETS_DIR}/NAME`: forwarded sockets, as symlinks to the real ones\n\
         - `{WAIT_DIR}/X`: reading it waits until X holds: a state, `settled`, or `port:8080`\n\n\
         States: {}\n\nVerbs: {}\n",
        words(State::ALL.iter().map(|state| state.word())),
        words(Verb::ALL.iter().map(|verb| verb.word())),
    ));
    text
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}
