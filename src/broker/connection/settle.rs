//! What the client acknowledged: hub and store are told, and a PUBREC is answered when the disk knows of it.

use std::mem;
use std::task::{Context, Poll};

use futures_util::future::try_join_all;
use futures_util::{FutureExt, TryFutureExt};

use super::Connection;
use super::farewell::End;
use super::send::Stored;
use crate::broker::wire::AckKind;

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
        let released = self.seat.own.window.released().into_iter();
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
            if let Some(settling) = &mut self.sender.settling {
                let Poll::Ready(settled) = settling.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.settling = None;
                settled.map_err(|_closed| End::NotStored)?;
            }
            if self.sender.taken.is_empty() {
                return Ok(Poll::Ready(()));
            }
            self.sender.settling = self.settle();
        }
    }

    /// Marks on disk what PUBRECs came for. Yields the identifiers and codes of the PUBRELs that may leave then.
    fn release(&mut self) -> Stored<Vec<(u16, u8)>> {
        let pubrels = mem::take(&mut self.sender.pubrels);
        let rows: Vec<u64> = pubrels.iter().filter_map(|pubrel| pubrel.row).collect();
        let queue = self.seat.session.queue.stored().filter(|_| !rows.is_empty());
        let store = self.seat.hub.store.clone();
        Box::pin(async move {
            if let Some(queue) = queue {
                store.released(queue, rows).await?.await?;
            }
            Ok(pubrels.into_iter().map(|Pubrel { id, code, .. }| (id, code)).collect())
        })
    }

    /// The store verb that acknowledges what the client acknowledged, if there is anything.
    fn settle(&mut self) -> Option<Stored<()>> {
        let taken = mem::take(&mut self.sender.taken);
        self.seat.hub.acknowledged(&self.seat.session, taken, false)
    }

    /// At the end of the connection: asks at once for all that is left, whether the store has answered or not.
    pub(super) fn settle_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sender.assigning.is_none() {
            self.assign();
        }
        self.give();
        let given = self.sender.giving.take().map(|giving| giving.map_ok(|_last| ()).boxed());
        // The PUBRELs themselves are for the next connection.
        let releasing = [self.sender.releasing.take(), Some(self.release())].into_iter().flatten();
        let releasing = releasing.map(|releasing| releasing.map_ok(drop).boxed());
        let asked = [self.sender.settling.take(), self.sender.assigning.take(), given, self.settle()];
        self.sender.settling = Some(try_join_all(asked.into_iter().flatten().chain(releasing)).map_ok(drop).boxed());
        let _ = self.poll_acknowledged(cx);
        Poll::Ready(())
    }
}
