//! The beginning of a connection: from its first byte to the CONNECT that the engine gets.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::faults::{self, Fault};
use super::super::frames::connect::{Hello, Protocol};
use super::super::frames::{Frame, FrameError, Kind, Version};
use super::super::refusals::{Refusal, Who};
use super::Gate;
use super::farewell::{closed, not_mqtt};
use super::judge::{Verdict, judge};
use super::pulse::Pulse;

/// The CONNACK of a server that does not speak the protocol level of the client: in the form of 3.1.1 to a lower level,
/// in that of MQTT 5 to a higher one (MQTT 5, 3.1.2.2).
const LOWER_LEVEL: [u8; 4] = [0x20, 2, 0, 1];
const HIGHER_LEVEL: [u8; 5] = [0x20, 3, 0, 0x84, 0];
/// Protocol levels.
const LEVEL_V31: u8 = 3;
const LEVEL_V311: u8 = 4;

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Waits for the CONNECT. The engine need not be started for anybody who sends none.
    ///
    /// # Errors
    ///
    /// If something else comes, or a CONNECT that cannot be served.
    pub(in crate::broker) async fn connected(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_connected(cx)).await
    }

    /// The CONNECT, once it is there and until the engine has it.
    pub(in crate::broker) fn hello(&self) -> Option<Hello<'_>> {
        self.next.as_ref()?.hello()
    }

    /// The client is let in: the engine gets its CONNECT under `key`.
    pub(in crate::broker) fn admit(&mut self, key: &str) {
        let version = self.link.version();
        self.next = self.next.take().and_then(|connect| connect.with_client_id(version, key));
    }

    /// The client is not let in, and is told so.
    pub(in crate::broker) async fn refuse(&mut self, refusal: Refusal, detail: &str) {
        self.cut(refusal, detail);
        poll_fn(|cx| self.poll_farewell(cx)).await;
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.is_some() {
            return self.poll_farewell(cx).map(Err);
        }
        let connect = loop {
            match self.incoming.next_frame() {
                Ok(Some(frame)) if frame.kind() == Kind::Connect => break frame,
                Ok(Some(frame)) => {
                    self.tell_end(Refusal::FirstPacket, format_args!("packet type {}", frame.packet_type()));
                    return Poll::Ready(Err(closed("the first packet is not a CONNECT")));
                }
                Ok(None) if ready!(self.poll_fill(cx))? == 0 => return Poll::Ready(Err(closed("the client hung up"))),
                Ok(None) => {}
                Err(error) => {
                    let refusal = match error {
                        FrameError::TooBig { .. } => Refusal::PacketSize,
                        FrameError::Length => Refusal::Malformed,
                    };
                    self.tell_end(refusal, error);
                    return Poll::Ready(Err(not_mqtt(error)));
                }
            }
        };
        self.incoming.set_limit(self.limits.packet);
        self.check_connect(&connect);
        if self.farewell.is_some() {
            return self.poll_farewell(cx).map(Err);
        }
        self.next = Some(connect);
        Poll::Ready(Ok(()))
    }

    /// Looks at the CONNECT as far as that needs no knowledge of users, and begins the farewell if it cannot be served.
    fn check_connect(&mut self, connect: &Frame) {
        match connect.protocol() {
            Protocol::Known(version) => self.link.saw_version(version),
            Protocol::V31 => {
                // For the line.
                if let Some(hello) = connect.hello_as(Version::V311) {
                    self.link.saw_connect(hello.connect, Who::named(self.peer, hello.user, hello.client));
                }
                return self.refuse_level(Refusal::Mqtt31, LEVEL_V31);
            }
            Protocol::Level(level) => return self.refuse_level(Refusal::ProtocolLevel, level),
            Protocol::Other => return self.take_leave(Refusal::Malformed, "the protocol name is not MQTT", &[]),
        }
        let fault = faults::check(connect, self.link.version()).err();
        let Some(hello) = connect.hello() else {
            return self.refuse_packet(fault.unwrap_or(Fault::Connect));
        };
        self.link.saw_connect(hello.connect, Who::named(self.peer, hello.user, hello.client));
        self.pulse = Some(Pulse::new(hello.connect.keep_alive));
        if let Some(fault) = fault {
            return self.refuse_packet(fault);
        }
        if let Verdict::End(refusal) = judge(connect.clone(), self.link.version(), &self.limits.topics) {
            self.cut(refusal, hello.will_topic.unwrap_or_default());
        }
    }

    fn refuse_level(&mut self, refusal: Refusal, level: u8) {
        let answer = if level <= LEVEL_V311 { &LOWER_LEVEL[..] } else { &HIGHER_LEVEL };
        self.take_leave(refusal, &format!("level {level}"), answer);
    }
}
