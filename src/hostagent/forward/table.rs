//! The table of forwards: what there should be, from the rules and what listens in the guest, and what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::carriers::Goal;
use super::place::Place;
use super::post::{Means, Post, State, Way};
use super::rules::{Fixed, HostEnd, Listener, Proto, Rules, Verdict};
use crate::status::Forward;

/// The most forwards of an instance.
const FORWARDS: usize = 256;
/// The most lines for what is not forwarded.
const IGNORED: usize = 256;

pub struct Table {
    rules: Rules,
    by_ssh: bool,
    means: Means,
    entries: BTreeMap<Place, Entry>,
    /// For which there was no room.
    surplus: Vec<(Place, Way)>,
    ignored: Vec<Listener>,
    /// Given to entries, never twice.
    ids: u64,
    posts: JoinSet<()>,
}

struct Entry {
    id: u64,
    way: watch::Sender<Way>,
    /// `None` until it is known.
    state: Option<State>,
    post: AbortHandle,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    way: Way,
    asked: bool,
}

impl Table {
    pub fn new(rules: Rules, by_ssh: bool, means: Means) -> Self {
        Self {
            rules,
            by_ssh,
            means,
            entries: BTreeMap::new(),
            surplus: Vec::new(),
            ignored: Vec::new(),
            ids: 0,
            posts: JoinSet::new(),
        }
    }

    /// Makes and ends forwards as these listeners ask for. Connections live on.
    pub fn update(&mut self, listeners: &BTreeSet<Listener>) {
        let (mut wanted, ignored) = wanted(&self.rules, listeners, self.by_ssh);
        self.ignored = ignored;
        self.entries.retain(|place, entry| {
            let Some(wanted) = wanted.remove(place) else {
                entry.post.abort();
                return false;
            };
            entry.way.send_if_modified(|way| std::mem::replace(way, wanted.way.clone()) != wanted.way);
            true
        });
        while self.posts.try_join_next().is_some() {}
        self.surplus.clear();
        for (place, wanted) in wanted {
            match self.entries.len() < FORWARDS {
                true => self.begin(place, wanted),
                false => self.surplus.push((place, wanted.way)),
            }
        }
        self.surplus.truncate(IGNORED);
    }

    fn begin(&mut self, place: Place, wanted: Wanted) {
        self.ids += 1;
        let (way, look) = watch::channel(wanted.way);
        let post =
            Post { id: self.ids, place: place.clone(), way: look, asked: wanted.asked, means: self.means.clone() };
        let post = self.posts.spawn(post.keep());
        self.entries.insert(place, Entry { id: self.ids, way, state: None, post });
    }

    /// Takes in what a forward says of itself.
    pub fn report(&mut self, id: u64, state: State) {
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.id == id) {
            entry.state = Some(state);
        }
    }

    /// As it is told to others.
    pub fn forwards(&self) -> Arc<[Forward]> {
        let known = self.entries.iter().filter_map(|(place, entry)| {
            let state = match entry.state.as_ref()? {
                Ok(()) => "forwarding".into(),
                Err(why) => format!("failed: {why}"),
            };
            Some(line(place, &entry.way.borrow(), state))
        });
        let too_many = || format!("failed: there are {FORWARDS} forwards already");
        let surplus = self.surplus.iter().map(|(place, way)| line(place, way, too_many()));
        let ignored = self.ignored.iter().map(|listener| Forward {
            proto: listener.proto.word().into(),
            host: "-".into(),
            guest: listener.address.to_string(),
            state: "ignored".into(),
            reverse: false,
        });
        known.chain(surplus).chain(ignored).collect()
    }
}

/// What there should be, and which listeners are left out.
fn wanted(rules: &Rules, listeners: &BTreeSet<Listener>, by_ssh: bool) -> (BTreeMap<Place, Wanted>, Vec<Listener>) {
    let mut wanted: BTreeMap<Place, Wanted> = rules.fixed().iter().map(fixed).collect();
    let mut ignored = Vec::new();
    for listener in listeners {
        let verdict = match by_ssh && listener.proto == Proto::Udp {
            true => Verdict::Ignored,
            false => rules.decide(listener),
        };
        match verdict {
            Verdict::Forward { host, asked } => {
                let way = match by_ssh {
                    true => Way::Ssh(Goal::Tcp(listener.address)),
                    false => Way::Agent(listener.address),
                };
                // Of several that would have the same place the first has it, the next when that one ends.
                wanted.entry(Place::Host(listener.proto, host)).or_insert(Wanted { way, asked });
            }
            Verdict::Ignored if ignored.len() < IGNORED && !rules.is_quiet(listener.proto) => ignored.push(*listener),
            Verdict::Ignored | Verdict::Static => {}
        }
    }
    (wanted, ignored)
}

fn fixed(fixed: &Fixed) -> (Place, Wanted) {
    let by_ssh = |host: &HostEnd, goal| (Place::Host(Proto::Tcp, host.clone()), Way::Ssh(goal));
    let (place, way) = match fixed {
        Fixed::Tcp { host, guest } => by_ssh(host, Goal::Tcp(*guest)),
        Fixed::Socket { host, guest } => by_ssh(host, Goal::Socket(guest.clone())),
        Fixed::Reverse { host, guest } => (Place::Guest { socket: guest.clone(), host: host.clone() }, Way::Reverse),
    };
    (place, Wanted { way, asked: true })
}

fn line(place: &Place, way: &Way, state: String) -> Forward {
    let (proto, host, guest) = match (place, way) {
        (Place::Guest { socket, host }, _) => ("unix", host.display().to_string(), socket.clone()),
        (Place::Host(_, host), Way::Ssh(Goal::Socket(path))) => ("unix", host.to_string(), path.clone()),
        (Place::Host(proto, host), Way::Agent(guest) | Way::Ssh(Goal::Tcp(guest))) => {
            (proto.word(), host.to_string(), guest.to_string())
        }
        (Place::Host(proto, host), Way::Reverse) => (proto.word(), host.to_string(), String::new()),
    };
    Forward { proto: proto.into(), host, guest, state, reverse: matches!(place, Place::Guest { .. }) }
}
