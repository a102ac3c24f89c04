//! The command line of a driver's program, in the syntax of Go's flags: `-x`, `--x`, `--x=v`, `--x v`. Pure.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the program is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Lima 2.2: a server at a path that both sides know.
    Serve {
        instance_dir: PathBuf,
    },
    /// Lima 2.0 and 2.1: a server that says where it is.
    Announce,
    InspectStatus,
    PreDriverAction,
    Report,
    Help,
}

pub(super) const HELP: &str = "\
  -inst-dir DIR       serve the instance in DIR, at DIR/NAME.drv.sock
  -inspect-status     read an instance, write it with its status
  -pre-driver-action  read a configuration, write it with the driver's defaults (Lima 2.1)
  -health             write as JSON what this driver is, and whether it works here
Without a flag: serve at a path that is written as one line of JSON (Lima 2.1).
";

/// Parses the arguments after the program's name; a fault is a sentence.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut command = Command::Announce;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let word = argument.to_str().filter(|word| word.len() > 1 && word.starts_with('-'));
        let Some(word) = word.filter(|word| *word != "--") else { break };
        let flag = word.strip_prefix("--").or(word.strip_prefix('-')).unwrap_or(word);
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let asked = match name {
            "inst-dir" => {
                let value = value.map(OsString::from).or_else(|| arguments.next());
                let instance_dir = value.filter(|value| !value.is_empty()).ok_or("-inst-dir needs a directory")?;
                Command::Serve { instance_dir: instance_dir.into() }
            }
            "inspect-status" => Command::InspectStatus,
            "pre-driver-action" => Command::PreDriverAction,
            "health" => Command::Report,
            "h" | "help" => Command::Help,
            _ => return Err(format!("unknown flag -{name}")),
        };
        let is_on = match (&asked, value) {
            (Command::Serve { .. }, _) | (_, None) => true,
            (_, Some(value)) => boolean(value).ok_or(format!("-{name} is true or false, not {value:?}"))?,
        };
        // As Lima's own: what is asked once goes before serving.
        if is_on && !matches!((&command, &asked), (Command::InspectStatus | Command::Report, Command::Serve { .. })) {
            command = asked;
        }
    }
    Ok(command)
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, String> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_have_gos_syntax() {
        let serve = Ok(Command::Serve { instance_dir: "/i/x".into() });
        for words in ["--inst-dir /i/x", "-inst-dir /i/x", "--inst-dir=/i/x", "-inst-dir=/i/x"] {
            assert_eq!(parsed(words), serve, "{words}");
        }
        assert_eq!(parsed("-inspect-status=true"), Ok(Command::InspectStatus));
        assert_eq!(parsed("--inspect-status --inst-dir /i/x"), Ok(Command::InspectStatus));
        assert_eq!(parsed("--inspect-status=0 --inst-dir /i/x"), serve);
        assert_eq!(parsed("--health"), Ok(Command::Report));
    }

    #[test]
    fn without_flags_it_is_lima_2_1() {
        assert_eq!(parsed(""), Ok(Command::Announce));
        assert_eq!(parsed("-- --health"), Ok(Command::Announce));
        assert_eq!(parsed("word --health"), Ok(Command::Announce));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(parsed("--sing"), Err("unknown flag -sing".into()));
        assert_eq!(parsed("--inst-dir"), Err("-inst-dir needs a directory".into()));
        assert!(parsed("--health=perhaps").is_err());
    }
}
