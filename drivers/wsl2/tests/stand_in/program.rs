//! The stand-ins. A distribution is a directory beside the program: `distributions/NAME/{state,rootfs/}`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Beside a boot.sh that may be run where the tests run.
pub const HARMLESS: &str = "for-the-stand-in";

/// How wsl.exe answers: a line of `language` beside it names one.
struct Language {
    name: &'static str,
    header: &'static str,
    running: &'static str,
    stopped: &'static str,
    /// Answer and exit status of a list of nothing.
    none: &'static str,
    bom: bool,
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "english",
        header: "  NAME            STATE           VERSION",
        running: "Running",
        stopped: "Stopped",
        none: "Windows Subsystem for Linux has no installed distributions.\r\n\r\nUse 'wsl.exe --list --online' to \
               list available distributions\r\nand 'wsl.exe --install <Distro>' to install.\r\n\r\nError code: \
               Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\r\n",
        bom: false,
    },
    Language {
        name: "english-old",
        header: "  NAME      STATE           VERSION",
        running: "Running",
        stopped: "Stopped",
        none: "Windows Subsystem for Linux has no installed distributions.\r\nDistributions can be installed by \
               visiting the Microsoft Store:\r\nhttps://aka.ms/wslstore\r\n",
        bom: true,
    },
    Language {
        name: "german",
        header: "  NAME            STATUS             VERSION",
        running: "Wird ausgeführt",
        stopped: "Beendet",
        none: "Für das Windows-Subsystem für Linux sind keine Distributionen installiert.\r\nFehlercode: \
               Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\r\n",
        bom: false,
    },
    Language {
        name: "chinese",
        header: "  名称            状态            版本",
        running: "正在运行",
        stopped: "已停止",
        none: "适用于 Linux 的 Windows 子系统没有已安装的分发版。\r\nhttps://aka.ms/wslstore\r\n",
        bom: false,
    },
    // With words that nobody has written down.
    Language {
        name: "unknown",
        header: "  NIMI            TILA            VERSIO",
        running: "Käynnissä nyt",
        stopped: "Pysäytetty",
        none: "Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND\r\n",
        bom: false,
    },
];

struct Wsl {
    dir: PathBuf,
    language: &'static Language,
}

pub fn wsl(dir: &Path, words: &[String]) -> ExitCode {
    let named = fs::read_to_string(dir.join("language")).unwrap_or_else(|_| "english".into());
    let language = LANGUAGES.iter().find(|language| language.name == named.trim()).unwrap();
    let wsl = Wsl { dir: dir.to_owned(), language };
    let mut log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    writeln!(log, "{}", words.join(" ")).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Ok(refusal) = fs::read_to_string(dir.join(format!("refuse{}", words[0]))) {
        return wsl.say(&refusal, 1);
    }
    match words[..] {
        ["--status"] => wsl.say("Default Version: 2\r\n", 0),
        ["--version"] => wsl.say("WSL version: 2.3.26.0\r\nKernel version: 5.15.167.4-1\r\n", 0),
        ["--list", "--verbose"] => wsl.list(),
        ["--list", "--running", "--quiet"] => wsl.list_running(),
        ["--import", name, location, archive, "--version", "2"] => wsl.import(name, location, archive),
        ["--terminate", name] => wsl.known(name, |wsl| {
            wsl.set(name, "stopped");
            // It ends what runs, even if something runs again at once.
            fs::write(wsl.place(name).join("ended"), std::process::id().to_string()).unwrap();
        }),
        ["--unregister", name] => wsl.known(name, |wsl| fs::remove_dir_all(wsl.place(name)).unwrap()),
        ["-d", name, "--user", "root", "--exec", ref command @ ..] => wsl.exec(name, command),
        ["-d", name, "--exec", ref command @ ..] => wsl.exec(name, command),
        _ => wsl.say(&format!("Invalid command line argument: {}\r\n", words.join(" ")), 1),
    }
}

/// Below a directory `windows` is drive W:, all else is in the distribution in which this runs.
pub fn wslpath(words: &[String]) -> ExitCode {
    let [flag, path] = words else { return ExitCode::FAILURE };
    if flag != "-w" || !Path::new(path).exists() {
        eprintln!("wslpath: {path}");
        return ExitCode::FAILURE;
    }
    let windows = path.replace('/', "\\");
    let prefix = if path.split('/').any(|part| part == "windows") { "W:" } else { r"\\wsl.localhost\Host" };
    println!("{prefix}{windows}");
    ExitCode::SUCCESS
}

/// What `wslpath` made of a path.
fn unix(path: &str) -> PathBuf {
    let path = path.strip_prefix("W:").or(path.strip_prefix(r"\\wsl.localhost\Host")).unwrap();
    path.replace('\\', "/").into()
}

impl Wsl {
    fn say(&self, text: &str, code: u8) -> ExitCode {
        let mut bytes = if self.language.bom { vec![0xff, 0xfe] } else { vec![] };
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        // Nobody may be listening any more.
        let _ = std::io::stdout().write_all(&bytes);
        ExitCode::from(code)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.join("distributions").join(name)
    }

    fn is_running(&self, name: &str) -> bool {
        fs::read(self.place(name).join("state")).is_ok_and(|state| state == b"running")
    }

    fn set(&self, name: &str, state: &str) {
        let path = self.place(name).join("state");
        // Seen whole or not at all.
        let half = path.with_extension(std::process::id().to_string());
        fs::write(&half, state).unwrap();
        fs::rename(half, path).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("distributions")) else { return vec![] };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn list(&self) -> ExitCode {
        let names = self.names();
        if names.is_empty() {
            return self.say(self.language.none, 255);
        }
        let mut text = format!("{}\r\n", self.language.header);
        for (index, name) in names.iter().enumerate() {
            let state = if self.is_running(name) { self.language.running } else { self.language.stopped };
            let mark = if index == 0 { '*' } else { ' ' };
            text.push_str(&format!("{mark} {name:<15} {state:<15} 2\r\n"));
        }
        self.say(&text, 0)
    }

    fn list_running(&self) -> ExitCode {
        let names: Vec<String> = self.names().into_iter().filter(|name| self.is_running(name)).collect();
        match names.is_empty() {
            true => self.say("There are no running distributions.\r\n", 255),
            false => self.say(&format!("{}\r\n", names.join("\r\n")), 0),
        }
    }

    fn import(&self, name: &str, location: &str, archive: &str) -> ExitCode {
        if location.starts_with(r"\\") {
            return self.say("The network path was not found.\r\nError code: Wsl/Service/E_PATH\r\n", 255);
        }
        if self.place(name).exists() {
            return self.say("A distribution with the supplied name already exists.\r\n", 255);
        }
        let rootfs = self.place(name).join("rootfs");
        fs::create_dir_all(&rootfs).unwrap();
        let status = Command::new("tar").args(["-x", "-f"]).arg(unix(archive)).arg("-C").arg(&rootfs).output().unwrap();
        if !status.status.success() {
            fs::remove_dir_all(self.place(name)).unwrap();
            return self.say("Importing the distribution failed.\r\n", 255);
        }
        fs::write(unix(location).join("ext4.vhdx"), "").unwrap();
        self.set(name, "stopped");
        self.say("The operation completed successfully.\r\n", 0)
    }

    fn known(&self, name: &str, act: impl FnOnce(&Self)) -> ExitCode {
        if !self.place(name).exists() {
            let text = "There is no distribution with the supplied name.\r\nError code: \
                        Wsl/Service/WSL_E_DISTRO_NOT_FOUND\r\n";
            return self.say(text, 255);
        }
        act(self);
        self.say("The operation completed successfully.\r\n", 0)
    }

    /// Runs a program in the distribution, which runs from then on. Its paths are below the root file system.
    fn exec(&self, name: &str, command: &[&str]) -> ExitCode {
        if !self.place(name).exists() {
            return self.known(name, |_| {});
        }
        self.set(name, "running");
        let rootfs = self.place(name).join("rootfs");
        let inside = |word: &str| match word.find("/mnt/lima-cidata") {
            Some(at) => format!("{}{}{}", &word[..at], rootfs.display(), &word[at..]),
            None => word.to_owned(),
        };
        match command {
            ["sleep", _] => {
                let ended = || fs::read(self.place(name).join("ended")).ok();
                let before = ended();
                while self.is_running(name) && ended() == before {
                    std::thread::sleep(Duration::from_millis(10));
                }
                ExitCode::FAILURE
            }
            ["hostname", "-I"] => self.recorded(name, "hostname-I"),
            ["ip", "route", "get", "1"] => self.recorded(name, "ip-route"),
            ["hostname", "-i"] => self.recorded(name, "hostname-i"),
            // A real boot script would set up the machine on which this runs as its guest.
            ["env", ..] if !rootfs.join(format!("mnt/lima-cidata/{HARMLESS}")).exists() => {
                println!("the stand-in boots no real guest");
                ExitCode::FAILURE
            }
            [program @ ("rm" | "mkdir" | "tar" | "env" | "sync"), words @ ..] => {
                let status = Command::new(program).args(words.iter().map(|word| inside(word))).status().unwrap();
                if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            _ => ExitCode::from(127),
        }
    }

    /// What a program in the distribution prints: bytes, not UTF-16.
    fn recorded(&self, name: &str, file: &str) -> ExitCode {
        match fs::read(self.place(name).join(file)) {
            Ok(bytes) => {
                std::io::stdout().write_all(&bytes).unwrap();
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::from(127),
        }
    }
}
