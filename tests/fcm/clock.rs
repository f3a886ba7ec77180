//! Time that runs faster than the world's. With tokio's clock paused and nobody moving it, it jumps to the next timer
//! whenever all tasks wait, also for a socket; here it is held and moved by a beat, and sockets have their turn between
//! two beats. On a slow machine the beats come later, so no timer fires early.

use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Between two beats, in the time of the world.
const BEAT: Duration = Duration::from_millis(1);

/// Moves the clock of a test that was started with it paused, until it is dropped.
pub(crate) struct Clock {
    _tasks: JoinSet<()>,
}

impl Clock {
    /// So many times as fast as the world's.
    pub(crate) fn start(speed: u32) -> Self {
        let (beat, mut beats) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        // A blocking task that has not ended is also what keeps the runtime from moving the clock by itself.
        tasks.spawn_blocking(move || {
            while beat.blocking_send(()).is_ok() {
                std::thread::sleep(BEAT);
            }
        });
        tasks.spawn(async move {
            while beats.recv().await.is_some() {
                tokio::time::advance(BEAT * speed).await;
            }
        });
        Self { _tasks: tasks }
    }
}
