//! The users by their numbers: what they are called, whom they know, who of them is connected.

use crate::login::Login;

/// One in so many is connected all the time.
const CONNECTED: usize = 5;

/// Two devices of each: the first one is looked at while it is connected, the second one has a token for pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Web,
    Phone,
}

impl Device {
    pub(crate) const ALL: [Self; 2] = [Self::Web, Self::Phone];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Phone => "phone",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Users {
    pub(crate) count: usize,
    /// How many contacts each has. Whose contact one is, is one's own contact.
    pub(crate) contacts: usize,
}

impl Users {
    pub(crate) fn all(self) -> impl Iterator<Item = usize> {
        0..self.count
    }

    pub(crate) fn connected(self) -> impl Iterator<Item = usize> {
        self.all().filter(|user| is_connected(*user))
    }

    pub(crate) fn offline(self) -> impl Iterator<Item = usize> + Clone {
        (0..self.count).filter(|user| !is_connected(*user))
    }

    /// Whether each of them is a contact of the other one.
    pub(crate) fn are_contacts(self, one: usize, other: usize) -> bool {
        (0..self.contacts).any(|n| self.contact(one, n) == other || self.contact(other, n) == one)
    }

    /// The nearest ones in a circle, so that as many of them are connected as of all users.
    pub(crate) fn contact(self, user: usize, n: usize) -> usize {
        let steps = n / 2 + 1;
        if n.is_multiple_of(2) { (user + steps) % self.count } else { (user + self.count - steps) % self.count }
    }
}

/// Whether both devices of the user are connected all the time.
pub(crate) fn is_connected(user: usize) -> bool {
    user.is_multiple_of(CONNECTED)
}

pub(crate) fn name(user: usize) -> String {
    format!("user-{user:05}")
}

/// The user who is called so.
pub(crate) fn number(name: &str) -> Option<usize> {
    name.strip_prefix("user-")?.parse().ok()
}

pub(crate) fn login(user: usize) -> Login {
    Login::of(&name(user))
}

pub(crate) fn client_id(user: usize, device: Device) -> String {
    format!("{}:{}", name(user), device.name())
}

/// The registration token of the phone, of a usual length.
pub(crate) fn token(user: usize) -> String {
    format!("phone-{user:05}-APA91b{}", "EXAMPLE-registration-token-".repeat(5))
}
