//! `wsl.exe --list --verbose` as values. Pure. Its header and its words for states are in the language of Windows;
//! what does not change is where they are: name first, version last, the state between them.

/// A distribution's state, under Lima's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There is no such distribution.
    Uninitialized,
    Installing,
    Stopped,
    Running,
}

/// What a list says of a distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    State(State),
    /// It is there; the list has a word that is not known.
    Unknown(String),
}

/// Words that are known, in several languages. A list of those that run decides about all others.
const WORDS: &[(&str, State)] = &[
    ("Running", State::Running),
    ("Stopped", State::Stopped),
    ("Installing", State::Installing),
    ("Uninstalling", State::Installing),
    ("Converting", State::Installing),
    ("Exporting", State::Installing),
    ("Wird ausgeführt", State::Running),
    ("Beendet", State::Stopped),
    ("正在运行", State::Running),
    ("已停止", State::Stopped),
    ("実行中", State::Running),
    ("停止", State::Stopped),
    ("En ejecución", State::Running),
    ("Detenido", State::Stopped),
    ("En cours d'exécution", State::Running),
    ("Arrêté", State::Stopped),
];

/// Marks of an answer that says that there are no distributions at all: none is a word of a language, but the first,
/// which is an old wsl.exe's in English.
const NONE_INSTALLED: &[&str] = &[
    "no installed distributions",
    "WSL_E_DEFAULT_DISTRO_NOT_FOUND",
    "https://aka.ms/wslstore",
    "wsl.exe --list --online",
    "wsl --list --online",
];

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uninitialized => "Uninitialized",
            Self::Installing => "Installing",
            Self::Stopped => "Stopped",
            Self::Running => "Running",
        }
    }
}

/// Finds a distribution in a verbose list.
pub(crate) fn find(text: &str, name: &str) -> Found {
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "*").collect();
        let [first, between @ .., version] = words.as_slice() else { continue };
        // Windows takes names that differ in case only for the same.
        if !first.eq_ignore_ascii_case(name) || version.parse::<u32>().is_err() {
            continue;
        }
        let word = between.join(" ").replace('\u{2019}', "'");
        let known = WORDS.iter().find(|(known, _)| *known == word);
        return known.map_or(Found::Unknown(word), |(_, state)| Found::State(*state));
    }
    Found::State(State::Uninitialized)
}

/// Whether a quiet list, of names alone, has it.
pub(crate) fn has_name(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.trim().eq_ignore_ascii_case(name))
}

/// Whether what a failed `--list` printed says that there are no distributions.
pub(crate) fn is_empty(text: &str) -> bool {
    NONE_INSTALLED.iter().any(|mark| text.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "  NAME            STATE           VERSION\n* Ubuntu          Running         2\n  \
                           lima-one        Stopped         2\n  lima-one-more   Installing      2\n";
    const GERMAN: &str =
        "  NAME        STATUS             VERSION\n* lima-one    Wird ausgeführt    2\n  lima-two    Beendet    2\n";
    const CHINESE: &str =
        "  名称        状态           版本\n* Ubuntu      已停止         2\n  lima-one    正在运行       2\n";

    #[test]
    fn states_are_found_by_their_place_in_any_language() {
        assert_eq!(find(ENGLISH, "lima-one"), Found::State(State::Stopped));
        assert_eq!(find(ENGLISH, "Ubuntu"), Found::State(State::Running));
        assert_eq!(find(ENGLISH, "lima-one-more"), Found::State(State::Installing));
        assert_eq!(find(ENGLISH, "lima"), Found::State(State::Uninitialized));
        assert_eq!(find(GERMAN, "lima-one"), Found::State(State::Running));
        assert_eq!(find(GERMAN, "LIMA-two"), Found::State(State::Stopped));
        assert_eq!(find(CHINESE, "lima-one"), Found::State(State::Running));
        assert_eq!(find("* x Suoritetaan nyt 2\n", "x"), Found::Unknown("Suoritetaan nyt".into()));
    }

    #[test]
    fn a_header_is_no_distribution() {
        assert_eq!(find(ENGLISH, "NAME"), Found::State(State::Uninitialized));
        assert_eq!(find("", "x"), Found::State(State::Uninitialized));
    }

    #[test]
    fn the_quiet_list_has_whole_names() {
        assert!(has_name("Ubuntu\nlima-one\n", "lima-one"));
        assert!(!has_name("lima-one-more\n", "lima-one"));
    }

    #[test]
    fn that_there_are_none_is_told_in_old_and_new_words() {
        let old = "Windows Subsystem for Linux has no installed distributions.\nDistributions can be installed by \
                   visiting the Microsoft Store:\nhttps://aka.ms/wslstore\n";
        let german = "Für das Windows-Subsystem für Linux sind keine Distributionen installiert.\n\
                      Fehlercode: Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\n";
        assert!(is_empty(old) && is_empty(german));
        assert!(!is_empty("The service cannot be started.\nError code: Wsl/0x80070422\n"));
    }
}
