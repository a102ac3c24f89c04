//! Which driver runs an instance whose lima.yaml names none: minikube's rules, and no chance in them.

use limafs_driver::Priority;

use super::{Known, priority_word};

/// Names in a reason; more than that help nobody.
const MOST_OTHERS: usize = 5;

/// A driver, and why it is this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// `None` where no driver may be chosen.
    pub driver: Option<String>,
    pub why: String,
}

/// Chooses the best driver: healthy, for default use, of more than discouraged priority; of two the one with the higher
/// priority, then the one whose name comes first. Where none is healthy it is the one that is wished for most, whose start
/// will say what it lacks. One without any other is chosen without having been tried.
pub fn choose(drivers: &[Known]) -> Choice {
    let mut candidates: Vec<&Known> = drivers.iter().filter(|driver| is_candidate(driver)).collect();
    candidates.sort_by(|a, b| declared(b).cmp(&declared(a)).then_with(|| a.found.name.cmp(&b.found.name)));
    let healthy = candidates.iter().find(|driver| is_healthy(driver));
    let Some(best) = healthy.or(candidates.first()) else {
        return Choice { driver: None, why: "no driver is one for default use".into() };
    };
    let mut why = format!("chosen by priority {}, {}", priority_word(declared(best)), condition(best));
    if candidates.len() == 1 {
        why = format!("the only one for default use, {}", condition(best));
    }
    let others = candidates.iter().filter(|other| other.found.name != best.found.name);
    for other in others.take(MOST_OTHERS) {
        let what = match is_healthy(other) {
            true => format!("of priority {}", priority_word(declared(other))),
            false => condition(other).to_owned(),
        };
        why.push_str(&format!("; {} {what}", other.found.name));
    }
    Choice { driver: Some(best.found.name.clone()), why }
}

/// Whether it would matter how the drivers are: there are several to choose from, or some that have not said what they are.
pub fn is_open(drivers: &[Known]) -> bool {
    let usable = || drivers.iter().filter(|driver| driver.found.refused.is_none());
    usable().any(|driver| driver.words().is_none()) || usable().filter(|driver| is_candidate(driver)).count() > 1
}

fn is_candidate(driver: &Known) -> bool {
    let about = driver.words().map(|words| &words.about);
    driver.found.refused.is_none() && about.is_some_and(|about| about.default && about.priority > Priority::Discouraged)
}

fn declared(driver: &Known) -> Priority {
    driver.words().map(|words| words.about.priority).unwrap_or_default()
}

fn is_healthy(driver: &Known) -> bool {
    driver.health().is_some_and(|health| health.installed && health.healthy)
}

fn condition(driver: &Known) -> &'static str {
    match driver.health() {
        Some(health) if !health.installed => "not installed",
        Some(health) if !health.healthy => "not healthy",
        Some(_) => "healthy",
        None => "not tried yet",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use limafs_driver::{About, Health};

    use super::*;
    use crate::drivers::{Found, Place, Tried, Words};

    fn known(name: &str, priority: Priority, health: Option<Health>) -> Known {
        let about = About { default: true, priority, ..About::default() };
        let words = Some(Words { about, ..Words::default() });
        let tried = health.map(|health| Tried {
            when: Timestamp::UNIX_EPOCH,
            health: Some(health),
            words: None,
            log: Vec::new(),
            options: Vec::new(),
        });
        Known { found: Found { name: name.into(), place: Place::BuiltIn, stamp: None, refused: None, words }, tried }
    }

    fn well() -> Option<Health> {
        Some(Health::working("1"))
    }

    #[test]
    fn the_healthy_one_of_the_highest_priority_is_chosen_whatever_the_order() {
        let missing = Some(Health::failing(false, "not-found", "no vfkit", ""));
        let mut all = vec![
            known("b", Priority::Default, well()),
            known("a", Priority::Default, well()),
            known("c", Priority::Fallback, well()),
            known("vz", Priority::Preferred, missing),
        ];
        let expected =
            "chosen by priority default, healthy; vz not installed; b of priority default; c of priority fallback";
        for _ in 0..all.len() {
            all.rotate_left(1);
            let choice = choose(&all);
            assert_eq!((choice.driver.as_deref(), choice.why.as_str()), (Some("a"), expected));
        }
        assert!(is_open(&all));
    }

    #[test]
    fn what_is_not_for_default_use_discouraged_or_refused_is_never_chosen() {
        let mut odd = known("odd", Priority::HighlyPreferred, well());
        odd.found.words.as_mut().unwrap().about.default = false;
        let mut refused = known("refused", Priority::HighlyPreferred, well());
        refused.found.refused = Some("it may be changed by others".into());
        let mut silent = known("silent", Priority::HighlyPreferred, None);
        silent.found.words = None;
        let all = [odd, refused, silent, known("poor", Priority::Discouraged, well())];
        assert_eq!(choose(&all), Choice { driver: None, why: "no driver is one for default use".into() });
    }

    #[test]
    fn without_a_healthy_one_the_most_wished_for_is_chosen_and_says_so() {
        let ill = || Some(Health::failing(true, "no-kvm", "it is not", ""));
        let all = [known("a", Priority::Fallback, ill()), known("b", Priority::Default, ill())];
        let choice = choose(&all);
        assert_eq!(choice.driver.as_deref(), Some("b"));
        assert_eq!(choice.why, "chosen by priority default, not healthy; a not healthy");
        assert_eq!(all[0].priority(), Priority::Unhealthy);
    }

    #[test]
    fn the_only_one_needs_no_trial() {
        let all = [known("qemu", Priority::Default, None)];
        assert!(!is_open(&all));
        assert_eq!(choose(&all).why, "the only one for default use, not tried yet");
        assert_eq!(choose(&all).driver.as_deref(), Some("qemu"));
    }
}
