//! One connection: dials, then moves bytes between the socket and the session until it ends.
//!
//! ```text
//!              orders                        bytes
//!   driver ───────────────► Connection ───────────────► CCS
//!          ◄───────────────  (Session)  ◄───────────────
//!              events
//! ```
//!
//! Back-pressure: while the driver takes no events, the socket is not read; orders go on being written. A peer that does
//! not read stops the orders, and the driver gives the connection up when too many of them wait.

use crate::ccs::event::{Answer, Counters, Event, Reason};
use crate::ccs::payload::{self, PayloadError};
use crate::ccs::session::{Input, Output, Session};
use crate::ccs::settings::SessionConfig;
use crate::chat::id::{Sid, Token};
use crate::ops::clock::at;
use crate::transport::core::{self, Counted, End, Manner};
use crate::transport::dial::Dialer;
use crate::transport::driver::{self, EventSender, Order};
use crate::transport::{AckRef, ConnectionId, DeviceMessage, ReceivedUpstream, RejectedUpstream, SAMPLE_MAX};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once: one TLS record.
const READ_BYTES: usize = 16 * 1024;
/// Bytes waiting to be written above which no order is taken.
const OUT_BYTES: usize = 256 * 1024;
/// Orders taken at once, so that they leave in one write.
const ORDER_BATCH: usize = 64;
/// For the last words on a connection that is over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what the peer has sent already is still read where nothing can be written any more: answers are among it.
const READ_AFTER_WRITE_FAILED: Duration = Duration::from_secs(2);
/// The stream errors and binding errors of a server that allows no further connection.
const TOO_MANY: [&str; 2] = ["policy-violation", "resource-constraint"];

/// The driver's side of a connection.
pub(super) type Task = driver::Task<String, Answer>;

pub(super) async fn run(mut task: Task, config: SessionConfig, dialer: Arc<Dialer>) {
    let stream = match task.dial(&dialer).await {
        Ok(stream) => stream,
        Err((end, detail)) => return task.end(end, detail).await,
    };
    let (reader, mut writer) = tokio::io::split(stream);
    let mut session_io = SessionIo::new(task.id, config);
    let reason = run_session(&mut task, &mut session_io, reader, &mut writer).await;
    for event in std::mem::take(&mut session_io.events_out) {
        task.events.send(event).await;
    }
    task.end(end_of(&reason, session_io.was_open), reason.to_string()).await;
    if reason != Reason::Broken {
        flush_and_close(writer, session_io.out).await;
    }
}

/// Every future in the `select!` is cancel-safe: what it has taken is in `session_io` or still where it was.
async fn run_session(
    task: &mut Task,
    session_io: &mut SessionIo,
    mut reader: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Reason {
    let mut bytes = vec![0; READ_BYTES];
    let mut orders = Vec::with_capacity(ORDER_BATCH);
    loop {
        session_io.pump(&task.events);
        if let Some(reason) = session_io.ended.take() {
            return reason;
        }
        tokio::select! {
            biased;
            changed = task.retire.changed(), if !session_io.closing => {
                let manner = changed.ok().and_then(|()| *task.retire.borrow_and_update());
                session_io.retire(manner.unwrap_or(Manner::Now));
            }
            () = task.events.ready(), if !session_io.events_out.is_empty() => {}
            () = at(session_io.deadline.map(Into::into)) => session_io.handle(Input::Tick),
            taken = task.orders.recv_many(&mut orders, ORDER_BATCH), if session_io.takes_orders() => {
                if taken == 0 {
                    session_io.retire(Manner::Now);
                }
                orders.drain(..).for_each(|order| session_io.apply(order));
            }
            written = write_some(writer, &mut session_io.out, &mut session_io.flushed), if session_io.has_to_write() => {
                if let Err(error) = written {
                    tracing::debug!(kind = ?error.kind(), "write failed");
                    session_io.write_failed();
                }
            }
            () = at(session_io.unwritable_until.map(Into::into)), if session_io.events_out.is_empty() => {
                session_io.handle(Input::Eof);
            }
            read = reader.read(&mut bytes), if session_io.events_out.is_empty() => match read {
                Ok(0) => session_io.handle(Input::Eof),
                Ok(count) => session_io.handle(Input::Bytes(&bytes[..count])),
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), "read failed");
                    session_io.handle(Input::Eof);
                }
            },
        }
    }
}

/// A session and what lies between it and its two neighbours.
struct SessionIo {
    id: ConnectionId,
    session: Session,
    window: usize,
    /// Bytes for the socket.
    out: BytesMut,
    /// Whether the socket has passed on what was written to it.
    flushed: bool,
    /// Events for the driver. While there are any, nothing is read.
    events_out: VecDeque<core::Event<Answer>>,
    deadline: Option<Instant>,
    ended: Option<Reason>,
    was_open: bool,
    closing: bool,
    paused: bool,
    /// Set when nothing can be written any more: when reading ends as well.
    unwritable_until: Option<Instant>,
}

impl SessionIo {
    fn new(id: ConnectionId, config: SessionConfig) -> Self {
        Self {
            id,
            window: config.window,
            session: Session::new(config, now()),
            out: BytesMut::new(),
            flushed: true,
            events_out: VecDeque::new(),
            deadline: None,
            ended: None,
            was_open: false,
            closing: false,
            paused: false,
            unwritable_until: None,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(input, now());
        self.poll();
    }

    fn poll(&mut self) {
        loop {
            match self.session.poll() {
                Output::Write(_) if self.unwritable_until.is_some() => {}
                Output::Write(bytes) => self.out.extend_from_slice(&bytes),
                Output::Event(Event::Closed(reason)) => self.ended = Some(reason),
                Output::Event(event) => {
                    self.was_open |= matches!(event, Event::Ready { .. });
                    self.events_out.extend(event_of(self.id, event, self.window));
                }
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    break;
                }
            }
        }
        let Counters { bad_acks, unknown_answers, malformed, oversize, ignored, pings } = self.session.take_counters();
        let counted = Counted { bad_acks, unknown_answers, malformed, oversize, ignored, pings };
        if counted != Counted::default() {
            self.events_out.push_back(core::Event::Counted(counted));
        }
    }

    /// Brings the events to the driver as far as it takes them.
    fn pump(&mut self, events: &EventSender<Answer>) {
        self.poll();
        events.send_some(&mut self.events_out);
        let paused = !self.events_out.is_empty();
        if paused != self.paused {
            self.paused = paused;
            if self.unwritable_until.is_some() {
                self.unwritable_until = Some(now() + READ_AFTER_WRITE_FAILED);
            }
            self.handle(if paused { Input::Pause } else { Input::Resume });
        }
    }

    fn apply(&mut self, order: Order<String>) {
        match order {
            Order::Send(sid, json) => self.handle(Input::Send { message_id: &sid.to_string(), json: &json }),
            Order::Ack(AckRef { to, message_id, .. }) => {
                self.handle(Input::AckUpstream { to: &to, message_id: &message_id });
            }
        }
    }

    fn retire(&mut self, manner: Manner) {
        self.closing = manner == Manner::Now;
        self.handle(if self.closing { Input::Close } else { Input::Shutdown });
    }

    /// Gives up writing, and not yet what the peer has sent. What is not handed over by now goes over another connection.
    fn write_failed(&mut self) {
        self.out.clear();
        self.flushed = true;
        self.unwritable_until = Some(now() + READ_AFTER_WRITE_FAILED);
        if self.was_open {
            self.events_out.push_back(core::Event::Capacity(0));
        }
    }

    fn takes_orders(&self) -> bool {
        !self.closing && self.unwritable_until.is_none() && self.out.len() < OUT_BYTES
    }

    fn has_to_write(&self) -> bool {
        !self.out.is_empty() || !self.flushed
    }
}

/// What an event of a session is to the transport's core. Ids that are not ours were never assigned.
pub(super) fn event_of(connection: ConnectionId, event: Event, window: usize) -> Option<core::Event<Answer>> {
    let ack_ref = |to: String, message_id: String| AckRef { connection, to, message_id };
    Some(match event {
        Event::Ready { jid } => {
            tracing::info!(jid, "logged in");
            core::Event::Up { capacity: window }
        }
        Event::Draining => core::Event::Draining,
        Event::Answered { message_id, answer } => core::Event::Answered(Sid::parse(&message_id)?, answer),
        // Only the nack CONNECTION_DRAINING: CCS has not taken the message.
        Event::Bounced { message_id } => core::Event::NotTaken(Sid::parse(&message_id)?),
        Event::NotSent { message_id } => {
            tracing::debug!(message_id, "message not sent");
            core::Event::Unwritten(Sid::parse(&message_id)?)
        }
        Event::Upstream(upstream) => {
            let ack_ref = ack_ref(upstream.from.clone(), upstream.message_id.clone());
            core::Event::Device(device_message(upstream, ack_ref))
        }
        Event::Unusable { from, message_id, error, json } => {
            let code = error_code(&error);
            let sample = sample(&json, &from);
            let ack_ref = ack_ref(from, message_id);
            core::Event::Device(DeviceMessage::Rejected(RejectedUpstream { code, sample, ack_ref }))
        }
        Event::Receipt(receipt) => {
            // Its data is optional; the id is then all that is left to tell what it is about.
            let from_id = receipt.message_id.strip_prefix("dr2:").unwrap_or(&receipt.message_id).to_owned();
            core::Event::Receipt(core::Receipt {
                original: receipt.original_message_id.unwrap_or(from_id),
                status: receipt.status.filter(|status| !status.trim().is_empty()).unwrap_or_else(sent_to_device),
                handed_over_ms: receipt.sent_at_ms,
                ack_ref: ack_ref(receipt.from, receipt.message_id),
            })
        }
        Event::Closed(_) => return None,
    })
}

fn device_message(upstream: payload::Upstream, ack_ref: AckRef) -> DeviceMessage {
    match Token::new(upstream.from.clone()) {
        Ok(from) => {
            let payload::Upstream { category, message_id, data, .. } = upstream;
            DeviceMessage::Upstream(ReceivedUpstream { from, category, message_id, data, ack_ref })
        }
        Err(_) => {
            let from = upstream.from.clone();
            let sample = sample(&payload::Inbound::Upstream(upstream).to_json(), &from);
            DeviceMessage::Rejected(RejectedUpstream { code: "bad_from", sample, ack_ref })
        }
    }
}

/// What a receipt means that does not say it.
fn sent_to_device() -> String {
    payload::SENT_TO_DEVICE.to_owned()
}

fn error_code(error: &PayloadError) -> &'static str {
    match error {
        PayloadError::Field("data") => "bad_data",
        _ => "bad_payload",
    }
}

/// The beginning of a payload, without its sender: a registration token, if it is anything.
fn sample(json: &str, from: &str) -> String {
    let text = if from.is_empty() { json.to_owned() } else { json.replace(from, "<token>") };
    text.chars().take(SAMPLE_MAX).collect()
}

pub(super) fn end_of(reason: &Reason, was_open: bool) -> End {
    match reason {
        Reason::Shutdown => End::Retired,
        Reason::AuthFailed { .. } => End::AuthFailed,
        Reason::StreamError { condition } | Reason::BindFailed { condition }
            if !was_open && TOO_MANY.contains(&condition.as_str()) =>
        {
            End::TooMany
        }
        _ => End::Failed,
    }
}

/// Writes something, or passes on what was written. A TLS stream holds back a part of it until it is flushed.
async fn write_some(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    flushed: &mut bool,
) -> std::io::Result<()> {
    if out.is_empty() {
        writer.flush().await?;
        *flushed = true;
    } else {
        *flushed = false;
        if writer.write_buf(out).await? == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

async fn flush_and_close(mut writer: impl AsyncWrite + Unpin, mut out: BytesMut) {
    let close = async {
        writer.write_all_buf(&mut out).await?;
        writer.shutdown().await
    };
    // The connection is over either way.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
