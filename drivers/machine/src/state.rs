//! A machine's state, in docker-machine's words.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    None,
    Running,
    Paused,
    Saved,
    Stopped,
    Stopping,
    Starting,
    Error,
    Timeout,
}

const NUMBERS: [(State, &str); 9] = [
    (State::None, "no machine"),
    (State::Running, "running"),
    (State::Paused, "paused"),
    (State::Saved, "saved"),
    (State::Stopped, "stopped"),
    (State::Stopping, "stopping"),
    (State::Starting, "starting"),
    (State::Error, "in error"),
    (State::Timeout, "not answering"),
];

impl State {
    /// From its number on the wire.
    pub fn from_number(number: i64) -> Option<Self> {
        let index = usize::try_from(number).ok()?;
        NUMBERS.get(index).map(|(state, _)| *state)
    }

    pub fn number(self) -> i64 {
        NUMBERS.iter().position(|(state, _)| *state == self).map_or(0, |index| index as i64)
    }

    pub fn word(self) -> &'static str {
        NUMBERS[self.number() as usize].1
    }

    /// There is a VM, or there is about to be or not to be one.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Starting | Self::Stopping)
    }

    /// There is surely no VM.
    pub fn is_down(self) -> bool {
        matches!(self, Self::None | Self::Stopped | Self::Saved)
    }
}
