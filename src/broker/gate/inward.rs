//! What becomes of a packet of the client.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::frames::{Frame, Kind, Version};
use super::super::refusals::Refusal;
use super::Gate;
use super::judge::{Verdict, judge};

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// What the engine gets of a packet; nothing if it is refused, or if the connection has to end for it.
    pub(super) fn pass_in(&mut self, asked: Frame) -> Option<Frame> {
        let version = self.link.version();
        match judge(asked.clone(), version, &self.limits.topics) {
            Verdict::Pass(frame) => {
                if frame.kind() == Kind::Subscribe {
                    self.link.saw_filters_replaced(0);
                }
                Some(frame)
            }
            Verdict::Trimmed(frame, refused) => {
                let first = refused.first().map_or(&[][..], |place| &asked.bytes()[place.clone()]);
                self.tell(Refusal::TopicLimit, String::from_utf8_lossy(first));
                self.link.saw_filters_replaced(refused.len());
                Some(frame)
            }
            Verdict::Refuse(answer, refusal) => {
                self.tell(refusal, topic(&asked, version));
                if let Some(answer) = answer {
                    self.acks.push(&self.explained(answer, refusal.rule()), None);
                }
                None
            }
            Verdict::End(refusal) => {
                self.cut(refusal, &topic(&asked, version));
                None
            }
        }
    }

    /// The engine is about to read a packet.
    pub(super) fn watch_incoming(&mut self, frame: &Frame) {
        match frame.kind() {
            Kind::Publish => self.link.saw_publish_of_client(frame),
            // At QoS 2 the PUBREC says that the client has it.
            Kind::PubAck | Kind::PubRec => {
                if let Some(id) = frame.ack_id() {
                    self.link.saw_ack_of_client(id);
                }
            }
            Kind::PubRel => {
                if let Some(id) = frame.ack_id() {
                    self.acks.released(id);
                }
            }
            _ => {}
        }
    }
}

/// The topic of a PUBLISH, for the log; empty if it is none.
fn topic(frame: &Frame, version: Version) -> String {
    let publish = frame.publish(version).filter(|_| frame.kind() == Kind::Publish);
    publish.map_or_else(String::new, |publish| String::from_utf8_lossy(publish.topic).into_owned())
}
