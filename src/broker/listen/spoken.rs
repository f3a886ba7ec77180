//! What a connection speaks, by its first byte: to say so where it is not what the port is for. Pure.

use super::super::refusals::Refusal;
use super::doorstep::Way;

/// The first byte of a CONNECT (MQTT 5, 2.1).
const CONNECT: u8 = 0x10;
/// The first byte of a TLS connection (RFC 8446, 5.1: a handshake record).
const HANDSHAKE: u8 = 0x16;

/// Why a connection with this first byte cannot be served on this way; none if it may be.
pub(super) fn mismatch(way: Way, first: u8) -> Option<(Refusal, &'static str)> {
    match (way, first) {
        (Way::Tls | Way::Wss, CONNECT) => Some((Refusal::PlainOnTls, "MQTT without TLS")),
        (Way::Tls | Way::Wss, b'A'..=b'Z') => Some((Refusal::PlainOnTls, "HTTP without TLS")),
        (Way::Tcp | Way::Ws, HANDSHAKE) => Some((Refusal::TlsOnPlain, "TLS")),
        (Way::Ws, CONNECT) => Some((Refusal::OtherProtocol, "MQTT, and the port is for WebSocket")),
        (Way::Tcp, b'G') => Some((Refusal::OtherProtocol, "HTTP, and the port is for MQTT")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_way_is_for_may_be_spoken_there() {
        for (way, first) in [(Way::Tcp, CONNECT), (Way::Tls, HANDSHAKE), (Way::Ws, b'G'), (Way::Wss, HANDSHAKE)] {
            assert_eq!(mismatch(way, first), None, "{way:?}");
        }
        let refused = |way, first| mismatch(way, first).map(|(refusal, _)| refusal);
        for way in [Way::Tls, Way::Wss] {
            assert_eq!(refused(way, CONNECT), Some(Refusal::PlainOnTls));
            assert_eq!(refused(way, b'G'), Some(Refusal::PlainOnTls));
        }
        for way in [Way::Tcp, Way::Ws] {
            assert_eq!(refused(way, HANDSHAKE), Some(Refusal::TlsOnPlain));
        }
        assert_eq!(refused(Way::Ws, CONNECT), Some(Refusal::OtherProtocol));
        assert_eq!(refused(Way::Tcp, b'G'), Some(Refusal::OtherProtocol));
    }
}
