//! Why a connection ends, and the last words to its client.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Stream;
use super::handle::{ConnectionHandle, Ending};
use super::out::Out;
use crate::broker::hub::Leaving;
use crate::broker::refusals::{Refusal, Refused};
use crate::broker::wire::{self, ClientEncoding, Disconnect, PacketError};

/// How long the client has to read why it has to go.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// How much is thrown away at once.
const CHUNK: usize = 4 * 1024;
/// "Server shutting down" (MQTT 5, 2.4).
const SHUTTING_DOWN: u8 = 0x8b;
/// The reason code of a DISCONNECT that says goodbye.
const GOODBYE: u8 = 0;

/// How a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// It is gone.
    Broke,
    /// The client has said so.
    Said(Disconnect),
    /// Somebody else ends it.
    Ended(Ending),
    /// What the client sent cannot be taken.
    Refused(Refused),
    /// A message could not be made safe. The client gets no word: it must not go on, but come again.
    NotStored,
}

impl From<PacketError> for Refused {
    fn from(error: PacketError) -> Self {
        let (code, reason) = (error.code(), error.reason());
        Self { refusal: error.refusal(), code, reason, detail: error.to_string() }
    }
}

impl From<PacketError> for End {
    fn from(error: PacketError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        // A stream below says so of what it cannot read: see `listen::ws`.
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Refused(Refusal::Malformed.with(error.to_string())),
            _ => Self::Broke,
        }
    }
}

impl End {
    /// What the hub is told.
    pub(super) fn leaving(&self) -> Leaving {
        match self {
            Self::Said(Disconnect { code, session_expiry_s }) => {
                Leaving::Goodbye { with_will: *code != GOODBYE, expiry_s: *session_expiry_s }
            }
            _ => Leaving::Broke,
        }
    }

    /// What is to be told of it: the refusal, and what the log says besides.
    pub(super) fn told(&self) -> Option<(Refusal, &str)> {
        match self {
            Self::Broke | Self::Said(_) | Self::Ended(Ending::Stop) => None,
            Self::Ended(Ending::Refused(refusal)) => Some((*refusal, "")),
            Self::Refused(refused) => Some((refused.refusal, &refused.detail)),
            Self::NotStored => Some((Refusal::NotStored, "")),
        }
    }

    /// Writes the DISCONNECT. A server of 3.1.1 has none to send.
    pub(super) fn say(&self, out: &mut Vec<u8>, encoding: ClientEncoding) {
        // A client that takes no packet of that size is not told.
        let _ = match self {
            Self::Broke | Self::Said(_) | Self::NotStored | Self::Ended(Ending::Refused(Refusal::NotReading)) => false,
            Self::Ended(Ending::Stop) => wire::disconnect(out, encoding, SHUTTING_DOWN, None),
            Self::Ended(Ending::Refused(refusal)) => {
                wire::disconnect(out, encoding, refusal.code(), Some(refusal.rule()))
            }
            Self::Refused(refused) => wire::disconnect(out, encoding, refused.code, Some(&refused.reason)),
        };
    }

    /// How long the last words may take, if there is somebody to whom they can be said: a client that has closed its side
    /// may still read.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Ended(Ending::Refused(Refusal::NotReading)) => None,
            Self::Ended(Ending::Stop) => Some(Duration::ZERO),
            _ => Some(LINGER),
        }
    }
}

/// Writes what waits, closes the connection, and listens for a while: data that nobody reads makes TCP throw away what is
/// on its way to the other side, and that is where the client would learn why.
pub(super) async fn close(mut stream: Box<dyn Stream>, mut out: Out, handle: &ConnectionHandle, patience: Duration) {
    let closing = async {
        poll_fn(|cx| out.poll_drain(&mut stream, handle, cx)).await?;
        stream.shutdown().await?;
        let mut unread = vec![0; CHUNK];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // It is polled at least once. What fails now concerns nobody.
    let _ = timeout(patience, Box::pin(closing)).await;
}
