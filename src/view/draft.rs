//! Whether the bytes of a document may count: not those of a writer that was killed half way.

use std::fs;

/// Kernel's PF_EXITING: the thread is in do_exit, and its files are being closed for it.
const PF_EXITING: u64 = 0x4;

/// Whether a thread is closing its files because a signal killed it. A process that exits by itself is not.
pub fn was_killed(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_killed(&stat))
}

/// Of proc(5): field 9 is `flags`, field 52 is `exit_code` as waitpid(2) would give it.
fn is_killed(stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    field(9) & PF_EXITING != 0 && field(52) & 0x7f != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(flags: u64, exit_code: u64) -> String {
        let middle = "0 ".repeat(42);
        format!("7 (a) b) R 1 7 7 0 -1 {flags} {middle}{exit_code}")
    }

    #[test]
    fn x31_only_death_by_a_signal_while_exiting_counts_as_killed() {
        assert!(is_killed(&stat(4, 9)));
        assert!(is_killed(&stat(4, 15)));
        assert!(!is_killed(&stat(4, 0)));
        assert!(!is_killed(&stat(4, 256)));
        assert!(!is_killed(&stat(0, 9)));
        assert!(!is_killed("garbage"));
    }

    #[test]
    fn a_living_process_was_not_killed() {
        assert!(!was_killed(std::process::id()));
    }
}
