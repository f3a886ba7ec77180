//! The handle by which others reach a live connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::SetOnce;
use tokio::time::Instant;

use crate::broker::refusals::{Refusal, Who};

/// How long the socket may take nothing of what waits for it. After that the client does not read, or is gone.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(30);
/// No time: nothing is to be watched.
const NEVER: u64 = u64::MAX;

/// The number of the last connection of this process.
static LAST: AtomicU64 = AtomicU64::new(0);
/// From where [`ConnectionHandle::clock`] counts.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One connection, for all but its own task. Times are those of [`ConnectionHandle::clock`].
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    number: u64,
    /// When the client was last heard of; [`NEVER`] while the broker does not read what it may have sent.
    last_packet_ms: AtomicU64,
    /// Since when the socket has taken nothing; [`NEVER`] while nothing waits for it.
    stalled_ms: AtomicU64,
    /// The longest time for which the client may be silent; [`NEVER`] if it need not speak.
    keep_alive_ms: AtomicU64,
    /// When the token ends with which the client came, in Unix milliseconds.
    expires_ms: AtomicU64,
    task: AtomicWaker,
    /// The user who logged in, and which of its devices it is. On the heap, so that it is small where nobody does.
    owner: OnceLock<Box<(Arc<str>, Arc<str>)>>,
    /// Set when the hub has taken the session back.
    gone: SetOnce<()>,
    /// A lock because others end the connection and speak of its client; held for moments.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ending: Option<Ending>,
    who: Who,
    /// It was told why the connection ends.
    told: bool,
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client may not stay.
    Refused(Refusal),
    /// The broker stops.
    Stop,
}

impl ConnectionHandle {
    pub(crate) fn new(peer: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            number: LAST.fetch_add(1, Relaxed) + 1,
            last_packet_ms: AtomicU64::new(Self::clock()),
            stalled_ms: AtomicU64::new(NEVER),
            keep_alive_ms: AtomicU64::new(NEVER),
            expires_ms: AtomicU64::new(NEVER),
            task: AtomicWaker::new(),
            owner: OnceLock::new(),
            gone: SetOnce::new(),
            state: Mutex::new(State { ending: None, who: Who::at(peer), told: false }),
        })
    }

    /// Never used twice in the process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Milliseconds of a clock that nobody sets.
    pub(crate) fn clock() -> u64 {
        u64::try_from(Instant::now().saturating_duration_since(*START).as_millis()).unwrap_or(NEVER - 1)
    }

    /// Ends the connection: at once, or because a message was denied ([MQTT-3.3.5-2] has no other word for it in 3.1.1) as
    /// soon as the acknowledgements that are held have left. The first reason counts, but that one is weaker than others.
    pub(crate) fn end(&self, why: Refusal) {
        self.end_as(Ending::Refused(why));
    }

    /// The broker stops, or the task of the connection ends for whatever reason.
    pub(crate) fn stop(&self) {
        self.end_as(Ending::Stop);
    }

    fn end_as(&self, ending: Ending) {
        let mut state = self.lock();
        if state.ending.is_none_or(|before| before == Ending::Refused(Refusal::PublishDenied)) {
            state.ending = Some(ending);
        }
        drop(state);
        self.wake();
    }

    /// Why the connection is to end, if it is.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }

    /// There may be something to do for the connection.
    pub(crate) fn wake(&self) {
        self.task.wake();
    }

    /// From now on the task of `waker` is the connection's.
    pub(super) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Why the connection has to end by now, if it has: the client is silent, does not read, or its token has expired.
    pub(crate) fn overdue(&self, clock_ms: u64, unix_ms: u64) -> Option<Refusal> {
        let since = |time: &AtomicU64| match time.load(Relaxed) {
            NEVER => 0,
            then => clock_ms.saturating_sub(then),
        };
        if unix_ms >= self.expires_ms.load(Relaxed) {
            Some(Refusal::TokenExpired)
        } else if u128::from(since(&self.stalled_ms)) >= WRITE_STALL.as_millis() {
            Some(Refusal::NotReading)
        } else if since(&self.last_packet_ms) >= self.keep_alive_ms.load(Relaxed) {
            Some(Refusal::KeepAlive)
        } else {
            None
        }
    }

    /// When the connection has to end, in Unix milliseconds.
    pub(crate) fn set_expires_ms(&self, expires_ms: u64) {
        self.expires_ms.store(expires_ms, Relaxed);
    }

    /// The keep alive that goes for the client, in seconds; 0 if it need not speak ([MQTT-3.1.2-22]).
    pub(super) fn set_keep_alive(&self, seconds: u16) {
        let keep_alive_ms = if seconds == 0 { NEVER } else { u64::from(seconds) * 1_500 };
        self.keep_alive_ms.store(keep_alive_ms, Relaxed);
    }

    /// A packet came, or the client is read again.
    pub(super) fn packet_received(&self) {
        self.last_packet_ms.store(Self::clock(), Relaxed);
    }

    /// Stops the keep alive while the client is not read.
    pub(super) fn stop_keep_alive(&self) {
        self.last_packet_ms.store(NEVER, Relaxed);
    }

    /// The socket takes nothing, from now on or still.
    pub(super) fn stalled(&self) {
        // Nobody else writes it.
        if self.stalled_ms.load(Relaxed) == NEVER {
            self.stalled_ms.store(Self::clock(), Relaxed);
        }
    }

    /// The socket has taken something, or nothing waits for it.
    pub(super) fn not_stalled(&self) {
        self.stalled_ms.store(NEVER, Relaxed);
    }

    /// Its client has logged in, which it does once, as this device of this user.
    pub(crate) fn set_owner(&self, user: Arc<str>, device: Arc<str>) {
        // An error means that it was known.
        let _ = self.owner.set(Box::new((user, device)));
    }

    /// Which device of `user` it is, if it is one.
    pub(crate) fn device_of(&self, user: &str) -> Option<&Arc<str>> {
        let (owner, device) = &**self.owner.get()?;
        (**owner == *user).then_some(device)
    }

    /// Of whom lines speak.
    pub(crate) fn who(&self) -> Who {
        self.lock().who.clone()
    }

    pub(crate) fn set_who(&self, who: Who) {
        self.lock().who = who;
    }

    /// Whether this is the first time that it is told why the connection ends.
    pub(super) fn note_end(&self) -> bool {
        !std::mem::replace(&mut self.lock().told, true)
    }

    /// The hub has taken the session back.
    pub(crate) fn gone(&self) {
        // An error means that this was known.
        let _ = self.gone.set(());
    }

    pub(crate) async fn wait_gone(&self) {
        self.gone.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
