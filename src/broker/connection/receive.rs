//! What the client sends.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::closing::End;
use super::request::Request;
use super::settle::Pubrel;
use super::{Connection, wire_limits};
use crate::broker::refusals::Refusal;
use crate::broker::session::PubrecOutcome;
use crate::broker::wire::{self, Ack, AckKind, Disconnect, Framing, Packet, PacketError};
use crate::ops::metrics::Metric;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// So many bytes of a packet that is not whole yet are a sign of life, as a whole one is. Each segment of TCP of a big message on a slow
/// line has more; whoever sends a byte now and then comes to the end of its keep alive.
const SIGN_OF_LIFE: u16 = 256;
/// Requests of the client that wait for the disk; beyond them it is not read.
const REQUESTS: usize = 8;
const PUBLISH: u8 = 3;
/// "Packet identifier not found" (MQTT 5, 2.4).
const NO_SUCH_ID: u8 = 0x92;
/// Reason codes from here on are refusals.
const FAILURE: u8 = 0x80;

thread_local! {
    /// Where this thread reads to.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Why no further packet was handled.
enum Stop {
    /// The next one is not whole.
    Incomplete,
    /// The next one has to wait.
    Blocked,
}

impl Connection {
    /// Handles what the client sent, and reads once if all of it is handled. Yields whether something was read.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        if !self.kept.is_empty() || self.blocked {
            let kept = mem::take(&mut self.kept);
            let (handled, stop) = self.handle_all(cx, &kept)?;
            self.keep(kept, handled);
            self.set_blocked(matches!(stop, Stop::Blocked));
            any = handled > 0;
            if self.blocked {
                return Ok(any);
            }
        }
        let mut buffer = BUFFER.take();
        buffer.resize(CHUNK, 0);
        let received = self.poll_read(cx, &mut buffer);
        BUFFER.set(buffer);
        Ok(received? || any)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Result<bool, End> {
        let mut unread = ReadBuf::new(buffer);
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut unread) else {
            return Ok(false);
        };
        read?;
        let new = unread.filled();
        if new.is_empty() {
            return Err(End::Broke);
        }
        let came = new.len();
        let (handled, stop) = if self.kept.is_empty() {
            let (handled, stop) = self.handle_all(cx, new)?;
            self.kept.extend_from_slice(new.get(handled..).unwrap_or_default());
            (handled, stop)
        } else {
            let mut kept = mem::take(&mut self.kept);
            kept.extend_from_slice(new);
            let (handled, stop) = self.handle_all(cx, &kept)?;
            self.keep(kept, handled);
            (handled, stop)
        };
        self.note_life(handled > 0, came);
        self.set_blocked(matches!(stop, Stop::Blocked));
        Ok(true)
    }

    /// The keep alive begins anew with each control packet ([MQTT-3.1.2-24]), and while a big one is on its way.
    fn note_life(&mut self, is_whole: bool, came: usize) {
        let came = u16::try_from(came).unwrap_or(SIGN_OF_LIFE);
        self.since_life = self.since_life.saturating_add(came);
        if is_whole || self.since_life >= SIGN_OF_LIFE {
            self.since_life = 0;
            self.guard.handle.packet_received();
        }
    }

    /// Keeps what was not handled.
    fn keep(&mut self, mut bytes: Vec<u8>, handled: usize) {
        if handled < bytes.len() {
            bytes.drain(..handled);
            self.kept = bytes;
        }
    }

    fn set_blocked(&mut self, blocked: bool) {
        match (self.blocked, blocked) {
            (_, true) => self.guard.handle.stop_keep_alive(),
            (true, false) => self.guard.handle.packet_received(),
            (false, false) => {}
        }
        self.blocked = blocked;
    }

    /// Handles packets as far as there are whole ones, and nothing makes the next one wait. Yields how many bytes they had.
    fn handle_all(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(usize, Stop), End> {
        let limits = wire_limits(&self.guard.hub.limits);
        let mut handled = 0;
        let stop = loop {
            if self.has_to_wait(cx)? {
                break Stop::Blocked;
            }
            let rest = bytes.get(handled..).unwrap_or_default();
            let Framing::Whole { first, body, total } = wire::frame(rest, self.encoding.version, limits.packet)? else {
                break Stop::Incomplete;
            };
            if self.may_not_pass(cx, first >> 4 == PUBLISH, total) {
                break Stop::Blocked;
            }
            let body = rest.get(body).unwrap_or_default();
            let packet = wire::packet(self.encoding.version, first, body, &limits)?;
            self.handle(cx, packet)?;
            handled += total;
        };
        self.release_incoming();
        Ok((handled, stop))
    }

    /// Whether nothing at all may be handled now. Something else wakes the task.
    fn has_to_wait(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let is_publishing = self.poll_publish(cx)?.is_pending();
        if self.is_subscribing() {
            self.poll_requests(cx)?;
        }
        let is_ending = self.guard.handle.ending().is_some();
        Ok(is_publishing
            || self.is_subscribing()
            || is_ending
            || self.out.is_full()
            || self.requests.len() + self.following.len() >= REQUESTS)
    }

    /// Whether a packet of this size has to wait: for room among the held acknowledgements, or because the client sends too
    /// fast.
    fn may_not_pass(&mut self, cx: &mut Context<'_>, is_publish: bool, size: usize) -> bool {
        if is_publish && self.held.len() >= usize::from(self.guard.hub.limits.held_acks) {
            return true;
        }
        let Some(rates) = &mut self.rates else { return false };
        if let Some(slowed) = &mut self.slowed {
            if slowed.as_mut().poll(cx).is_pending() {
                return true;
            }
            // It was counted when it came.
            self.slowed = None;
            self.guard.hub.refusals.metrics().count(Metric::BrokerPublishSlowed);
            return false;
        }
        let now = Instant::now();
        let until = rates.pass_at(is_publish, size, now);
        if until <= now {
            return false;
        }
        let mut slowed = Box::pin(sleep_until(until));
        // Asked at once, so that it knows whom to wake.
        if slowed.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.slowed = Some(slowed);
        true
    }

    fn handle(&mut self, cx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => return self.publish(cx, &publish),
            Packet::Puback(ack) => {
                let flight = self.guard.packet_ids.window.puback(ack.id);
                self.sender.taken.extend(flight);
            }
            Packet::Pubrec(ack) => self.pubrec(ack),
            Packet::Pubrel(ack) => self.pubrel(ack.id),
            Packet::Pubcomp(ack) => {
                let flight = self.guard.packet_ids.window.pubcomp(ack.id);
                self.sender.taken.extend(flight);
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::Pingreq => wire::pingresp(self.out.buffer()),
            Packet::Disconnect(disconnect) => return Err(self.said_goodbye(disconnect)),
        }
        Ok(())
    }

    /// Writes an acknowledgement.
    pub(super) fn say(&mut self, kind: AckKind, id: u16, code: u8, reason: Option<&str>) {
        // No client that took its CONNACK takes no packet of that size.
        let _ = wire::ack(self.out.buffer(), self.encoding, kind, Ack { id, code }, reason);
    }

    /// At QoS 2 the client has the message, or, like one who sends a PUBACK with an error, does not want it.
    fn pubrec(&mut self, Ack { id, code }: Ack) {
        let (code, row) = match self.guard.packet_ids.window.pubrec(id, code >= FAILURE) {
            PubrecOutcome::Done(flight) => return self.sender.taken.push(flight),
            PubrecOutcome::Release(row) => (0, row),
            PubrecOutcome::AlreadyReleased => (0, None),
            PubrecOutcome::Early => return,
            PubrecOutcome::Unknown => (NO_SUCH_ID, None),
        };
        self.sender.pubrels.push(Pubrel { id, code, row });
    }

    /// The identifier is free, on disk too before the client hears of it: a message that comes under it is another one.
    fn pubrel(&mut self, id: u16) {
        let code = if self.guard.packet_ids.incoming.release(id) { 0 } else { NO_SUCH_ID };
        match self.guard.session.queue.stored() {
            Some(_) => self.publish_state.released.push((id, code)),
            None => self.say(AckKind::Pubcomp, id, code, None),
        }
    }

    /// Has the store forget the identifiers of all that was released in one go.
    fn release_incoming(&mut self) {
        let released = mem::take(&mut self.publish_state.released);
        if let (false, Some(queue)) = (released.is_empty(), self.guard.session.queue.stored()) {
            let store = self.guard.hub.store.clone();
            self.requests.push_back(Request::pubcomp(store, queue, released));
        }
    }

    fn said_goodbye(&self, disconnect: Disconnect) -> End {
        match disconnect.session_expiry_s {
            // [MQTT-3.14.2-2]
            Some(expiry_s) if expiry_s > 0 && !self.lasting => PacketError::SessionExpiry.into(),
            _ => End::Said(disconnect),
        }
    }

    /// More messages are open than the client was told that it may have.
    pub(super) fn too_many(&self) -> End {
        End::Refused(Refusal::ReceiveMaximum.with(""))
    }
}
