//! What the client acknowledged: hub and store are told, and a PUBREC is answered when the disk knows of it.

use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join, maybe_done, try_join_all};
use futures_util::{FutureExt, TryFutureExt};
use tokio::time::timeout;

use super::Connection;
use super::closing::End;
use super::send::Stored;
use crate::broker::hub::Settling;
use crate::broker::wire::AckKind;

/// How long the end of a connection waits for other readers of what it acknowledged.
const OTHER_QUEUES_WAIT: Duration = Duration::from_secs(2);

/// An answer to a PUBREC.
pub(super) struct Pubrel {
    pub(super) id: u16,
    pub(super) code: u8,
    /// The row to mark before the PUBREL leaves.
    pub(super) row: Option<u64>,
}

impl Connection {
    /// Begins with what was half done on a connection before this one.
    pub(super) fn resume(&mut self) {
        let released = self.guard.packet_ids.window.released().into_iter();
        self.sender.pubrels.extend(released.map(|(id, row)| Pubrel { id, code: 0, row }));
    }

    /// Tells the store what the client acknowledged. Ready when the store has all of it.
    pub(super) fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        // Each for itself: the store has time for what was taken, and a client waits for its PUBRELs.
        let (released, taken) = (self.poll_pubrels(cx)?, self.poll_taken(cx)?);
        Ok(if released.is_ready() { taken } else { released })
    }

    fn poll_pubrels(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            if let Some(releasing) = &mut self.sender.releasing {
                let Poll::Ready(released) = releasing.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.releasing = None;
                for (id, code) in released.map_err(|_closed| End::NotStored)? {
                    self.say(AckKind::Pubrel, id, code, None);
                }
            }
            if self.sender.pubrels.is_empty() {
                return Ok(Poll::Ready(()));
            }
            self.sender.releasing = Some(self.release());
        }
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            if let Some(asking) = &mut self.sender.asking {
                let Poll::Ready(asked) = asking.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.asking = None;
                self.sender.settling = Some(asked.map_err(|_closed| End::NotStored)?);
            }
            if let Some(settling) = &mut self.sender.settling {
                let Poll::Ready(settled) = settling.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.settling = None;
                settled.map_err(|_closed| End::NotStored)?;
            }
            if self.sender.taken.is_empty() {
                return Ok(Poll::Ready(()));
            }
            self.sender.asking = self.settle();
        }
    }

    /// Marks on disk what PUBRECs came for. Yields the identifiers and codes of the PUBRELs that may leave then.
    fn release(&mut self) -> Stored<Vec<(u16, u8)>> {
        let pubrels = mem::take(&mut self.sender.pubrels);
        let rows: Vec<u64> = pubrels.iter().filter_map(|pubrel| pubrel.row).collect();
        let queue = self.guard.session.queue.stored().filter(|_| !rows.is_empty());
        let store = self.guard.hub.store.clone();
        Box::pin(async move {
            if let Some(queue) = queue {
                store.released(queue, rows).await?.await?;
            }
            Ok(pubrels.into_iter().map(|Pubrel { id, code, .. }| (id, code)).collect())
        })
    }

    /// What the store is asked for what the client has taken, if it has to know of it.
    fn settle(&mut self) -> Option<Settling> {
        let taken = mem::take(&mut self.sender.taken);
        self.guard.hub.acknowledged(&self.guard.session, taken, false)
    }

    /// At the end of the connection: asks for all that is left, whether the store has answered or not. Readers who are still
    /// to read a document are waited for, as long as it takes to end one that does not. Yields what is ready when all of it is
    /// done.
    pub(super) async fn settle_rest(&mut self) -> BoxFuture<'static, ()> {
        if self.sender.assigning.is_none() {
            self.assign();
        }
        self.give();
        let given = self.sender.giving.take().map(|giving| giving.map_ok(|_last| ()).boxed());
        // The PUBRELs themselves are for the next connection.
        let releasing = [self.sender.releasing.take(), Some(self.release())].into_iter().flatten();
        let releasing = releasing.map(|releasing| releasing.map_ok(drop).boxed());
        let others = [self.sender.settling.take(), self.sender.assigning.take(), given].into_iter().flatten();
        let mut others = Box::pin(maybe_done(try_join_all(others.chain(releasing))));
        let asking = [self.sender.asking.take(), self.settle()].into_iter().flatten();
        let mut asking = Box::pin(maybe_done(try_join_all(asking)));
        let both = poll_fn(|cx| {
            // They are asked for when they are polled.
            let _ = others.as_mut().poll(cx);
            asking.as_mut().poll(cx)
        });
        let _ = timeout(OTHER_QUEUES_WAIT, both).await;
        Box::pin(async move {
            asking.as_mut().await;
            let settling = asking.as_mut().take_output().and_then(Result::ok).unwrap_or_default();
            let _ = join(others, try_join_all(settling)).await;
        })
    }
}
