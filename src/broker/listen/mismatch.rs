//! What a connection speaks, by its first byte: to say so where it is not what the port is for. Pure.

use super::handshake::ListenerKind;
use crate::broker::refusals::Refusal;

/// The first byte of a CONNECT (MQTT 5, 2.1).
const CONNECT: u8 = 0x10;
/// The first byte of a TLS connection (RFC 8446, 5.1: a handshake record).
const HANDSHAKE: u8 = 0x16;

/// Why a connection with this first byte cannot be served on this kind of listener; none if it may be.
pub(super) fn mismatch(kind: ListenerKind, first: u8) -> Option<(Refusal, &'static str)> {
    match (kind, first) {
        (ListenerKind::Tls | ListenerKind::Wss, CONNECT) => Some((Refusal::PlainOnTls, "MQTT without TLS")),
        (ListenerKind::Tls | ListenerKind::Wss, b'A'..=b'Z') => Some((Refusal::PlainOnTls, "HTTP without TLS")),
        (ListenerKind::Tcp | ListenerKind::Ws, HANDSHAKE) => Some((Refusal::TlsOnPlain, "TLS")),
        (ListenerKind::Ws, CONNECT) => Some((Refusal::OtherProtocol, "MQTT, and the port is for WebSocket")),
        (ListenerKind::Tcp, b'G') => Some((Refusal::OtherProtocol, "HTTP, and the port is for MQTT")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_listener_is_for_may_be_spoken_there() {
        for (kind, first) in [
            (ListenerKind::Tcp, CONNECT),
            (ListenerKind::Tls, HANDSHAKE),
            (ListenerKind::Ws, b'G'),
            (ListenerKind::Wss, HANDSHAKE),
        ] {
            assert_eq!(mismatch(kind, first), None, "{kind:?}");
        }
        let refused = |kind, first| mismatch(kind, first).map(|(refusal, _)| refusal);
        for kind in [ListenerKind::Tls, ListenerKind::Wss] {
            assert_eq!(refused(kind, CONNECT), Some(Refusal::PlainOnTls));
            assert_eq!(refused(kind, b'G'), Some(Refusal::PlainOnTls));
        }
        for kind in [ListenerKind::Tcp, ListenerKind::Ws] {
            assert_eq!(refused(kind, HANDSHAKE), Some(Refusal::TlsOnPlain));
        }
        assert_eq!(refused(ListenerKind::Ws, CONNECT), Some(Refusal::OtherProtocol));
        assert_eq!(refused(ListenerKind::Tcp, b'G'), Some(Refusal::OtherProtocol));
    }
}
