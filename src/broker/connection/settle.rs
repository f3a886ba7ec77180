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
    /// What is to be marked on disk before.
    pub(super) row: Option<u64>,
}

impl Connection {
    /// Begins with what was half done on a connection before this one.
    pub(super) fn resume(&mut self) {
        let released = self.seat.own.window.released().into_iter();
        self.sender.pubrels.extend(released.map(|(id, row)| Pubrel { id, code: 0, row }));
    }

    /// Has hub and store know what the client has.
    pub(super) fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            if let Some(settling) = &mut self.sender.settling {
                let Poll::Ready(settled) = settling.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.settling = None;
                settled.map_err(|_closed| End::NotStored)?;
            }
            for (id, code) in mem::take(&mut self.sender.releasing) {
                self.say(AckKind::Pubrel, id, code, None);
            }
            if self.sender.taken.is_empty() && self.sender.pubrels.is_empty() {
                return Ok(Poll::Ready(()));
            }
            self.sender.settling = self.settle();
        }
    }

    /// What the store is asked for the client's acknowledgements, if it has to know of them.
    fn settle(&mut self) -> Option<Stored<()>> {
        let (taken, pubrels) = (mem::take(&mut self.sender.taken), mem::take(&mut self.sender.pubrels));
        let rows: Vec<u64> = pubrels.iter().filter_map(|pubrel| pubrel.row).collect();
        self.sender.releasing.extend(pubrels.into_iter().map(|Pubrel { id, code, .. }| (id, code)));
        let settle = self.seat.hub.acknowledged(&self.seat.session, taken);
        let (store, queue) = (self.seat.hub.store.clone(), self.seat.session.queue.stored());
        let Some(queue) = queue.filter(|_| !rows.is_empty()) else { return settle };
        Some(Box::pin(async move {
            let released = store.released(queue, rows).await?;
            if let Some(settle) = settle {
                settle.await?;
            }
            released.await
        }))
    }

    /// At the end of the connection: asks at once for all that is left, whether the store has answered or not.
    pub(super) fn settle_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sender.assigning.is_none() {
            self.assign();
        }
        self.give();
        let given = self.sender.giving.take().map(|giving| giving.map_ok(|_last| ()).boxed());
        let asked = [self.sender.settling.take(), self.sender.assigning.take(), given, self.settle()];
        self.sender.settling = Some(try_join_all(asked.into_iter().flatten()).map_ok(drop).boxed());
        // They are for the next connection.
        self.sender.releasing.clear();
        let _ = self.poll_acknowledged(cx);
        Poll::Ready(())
    }
}
