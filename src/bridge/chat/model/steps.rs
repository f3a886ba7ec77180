//! What may happen, and how often. Everything is named by small numbers, so that a failing case shrinks to few steps by few
//! people.

use super::{DEVICES, GROUP, PHONES, USERS};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Connect {
        user: usize,
        dev: usize,
    },
    Gone {
        user: usize,
        dev: usize,
    },
    /// A device says whether somebody looks at it.
    Active {
        user: usize,
        dev: usize,
        on: bool,
    },
    /// Somebody types.
    Type {
        user: usize,
        dev: usize,
        to: usize,
    },
    Write(Draft),
    /// The n-th message that waits for its time is taken back.
    Cancel {
        which: usize,
    },
    /// A device takes all that is in the inbox, and acknowledges it over MQTT.
    Acknowledge {
        user: usize,
        dev: usize,
    },
    /// A receipt `received` for the n-th message to the user from the end, of a device or without one.
    Confirm {
        user: usize,
        dev: Option<usize>,
        back: usize,
        up_to: bool,
    },
    Read {
        user: usize,
        dev: usize,
        back: usize,
    },
    /// `None`: it takes the registration back.
    Register {
        user: usize,
        dev: usize,
        wanted: Option<Wanted>,
    },
    Block {
        user: usize,
        other: usize,
        on: bool,
    },
    Mute {
        user: usize,
        with: usize,
        level: &'static str,
        seconds: Option<u64>,
    },
    Amend(Change),
    Delete {
        user: usize,
        back: usize,
        /// With all of its conversation.
        all: bool,
    },
    Add(usize),
    Remove(usize),
    Pass {
        seconds: u64,
    },
    /// It is looked for pushes that wait for room in the queue.
    Room,
    /// Pushes go to their service.
    Claim,
    /// What the push service says of the n-th push in flight.
    Answer {
        which: usize,
        how: How,
    },
    Restart {
        crashed: bool,
    },
}

/// Something that is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) from: usize,
    pub(super) dev: usize,
    pub(super) to: usize,
    /// The writer's own id of it, which another device may have used.
    pub(super) id: u8,
    pub(super) reaction: bool,
    pub(super) wish: &'static str,
    /// Who is named in it.
    pub(super) named: [bool; USERS],
    /// Everybody is.
    pub(super) all: bool,
    /// In so many seconds it is to be sent, and so many after that to be deleted.
    pub(super) sent: Option<u64>,
    pub(super) deleted: Option<u64>,
}

impl Draft {
    pub(super) fn plain(from: usize, to: usize, id: u8) -> Self {
        let (dev, reaction, wish, named, all) = (2, false, "auto", [false; USERS], false);
        Self { from, dev, to, id, reaction, wish, named, all, sent: None, deleted: None }
    }
}

/// The n-th message from the end that somebody has or had is changed.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) by: usize,
    pub(super) back: usize,
    pub(super) retract: bool,
    /// Others are named in it from now on.
    pub(super) named: Option<[bool; USERS]>,
}

/// How a device wants to be pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) first: bool,
    pub(super) quiet: bool,
    pub(super) badge: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Takes,
    Later,
    Refuses,
    Gone,
}

/// Mostly two of them, so that much happens between the same people.
fn user() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0..2_usize, 1 => 0..USERS]
}

fn device() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 1 => 0..DEVICES.len()]
}

fn with() -> impl Strategy<Value = usize> {
    prop_oneof![3 => user(), 2 => Just(GROUP)]
}

fn named() -> impl Strategy<Value = [bool; USERS]> {
    prop_oneof![2 => Just([false; USERS]), 1 => any::<[bool; USERS]>()]
}

fn draft() -> impl Strategy<Value = Draft> {
    let wish = prop_oneof![6 => Just("auto"), 1 => Just("always"), 1 => Just("never"), 1 => Just("silent")];
    let head = (user(), device(), with(), 0..14_u8);
    let seconds = || prop_oneof![6 => Just(None), 1 => prop_oneof![Just(3_u64), Just(20), Just(70)].prop_map(Some)];
    let more = (prop::bool::weighted(0.15), prop::bool::weighted(0.1), seconds(), seconds());
    (head, wish, named(), more).prop_map(|((from, dev, to, id), wish, named, (reaction, all, sent, deleted))| {
        let (all, sent) = (all && to == GROUP, sent.filter(|_| to != GROUP && !reaction));
        Draft { from, dev, to, id, reaction, wish, named, all, sent, deleted }
    })
}

fn wanted() -> impl Strategy<Value = Option<Wanted>> {
    let badge = prop_oneof![Just("server"), Just("client"), Just("off")];
    let wanted = (prop::bool::weighted(0.3), prop::bool::weighted(0.3), badge);
    let wanted = wanted.prop_map(|(first, quiet, badge)| Some(Wanted { first, quiet, badge }));
    prop_oneof![4 => wanted, 1 => Just(None)]
}

fn of_devices() -> impl Strategy<Value = Step> {
    let at = || (user(), device());
    prop_oneof![
        4 => at().prop_map(|(user, dev)| Step::Connect { user, dev }),
        1 => at().prop_map(|(user, dev)| Step::Gone { user, dev }),
        4 => (at(), prop::bool::weighted(0.7)).prop_map(|((user, dev), on)| Step::Active { user, dev, on }),
        1 => (at(), with()).prop_map(|((user, dev), to)| Step::Type { user, dev, to }),
        4 => (user(), 0..PHONES, wanted()).prop_map(|(user, dev, wanted)| Step::Register { user, dev, wanted }),
    ]
}

fn of_readers() -> impl Strategy<Value = Step> {
    let (dev, back) = (device, || 0..6_usize);
    let said = prop_oneof![4 => dev().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        3 => (user(), dev()).prop_map(|(user, dev)| Step::Acknowledge { user, dev }),
        4 => (user(), said, back(), any::<bool>())
            .prop_map(|(user, dev, back, up_to)| Step::Confirm { user, dev, back, up_to }),
        4 => (user(), dev(), back()).prop_map(|(user, dev, back)| Step::Read { user, dev, back }),
        2 => (user(), back(), prop::bool::weighted(0.3))
            .prop_map(|(user, back, all)| Step::Delete { user, back, all }),
    ]
}

fn of_people() -> impl Strategy<Value = Step> {
    let level = prop_oneof![1 => Just("all"), 2 => Just("mentions"), 2 => Just("none")];
    let seconds = prop_oneof![Just(None), Just(Some(10_u64)), Just(Some(60))];
    prop_oneof![
        2 => (user(), user(), any::<bool>()).prop_map(|(user, other, on)| Step::Block { user, other, on }),
        2 => (user(), with(), level, seconds)
            .prop_map(|(user, with, level, seconds)| Step::Mute { user, with, level, seconds }),
        2 => (1..USERS).prop_map(Step::Add),
        2 => (1..USERS).prop_map(Step::Remove),
    ]
}

fn of_the_bridge() -> impl Strategy<Value = Step> {
    let how = prop_oneof![4 => Just(How::Takes), 2 => Just(How::Later), 1 => Just(How::Refuses), 1 => Just(How::Gone)];
    let seconds = prop_oneof![4 => Just(4_u64), 3 => Just(15), 1 => Just(75), 1 => Just(650)];
    prop_oneof![
        3 => seconds.prop_map(|seconds| Step::Pass { seconds }),
        2 => Just(Step::Room),
        4 => Just(Step::Claim),
        4 => (0..8_usize, how).prop_map(|(which, how)| Step::Answer { which, how }),
        1 => any::<bool>().prop_map(|crashed| Step::Restart { crashed }),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let named = prop_oneof![1 => Just(None), 1 => any::<[bool; USERS]>().prop_map(Some)];
    let change = (user(), 0..6_usize, any::<bool>(), named).prop_map(|(by, back, retract, named)| Change {
        by,
        back,
        retract,
        named,
    });
    let step = prop_oneof![
        12 => draft().prop_map(Step::Write),
        1 => (0..3_usize).prop_map(|which| Step::Cancel { which }),
        4 => change.prop_map(Step::Amend),
        10 => of_devices(),
        11 => of_readers(),
        5 => of_people(),
        12 => of_the_bridge(),
    ];
    prop::collection::vec(step, 1..70)
}
