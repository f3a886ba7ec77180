//! Bytes of somebody who means no good, or whose connection broke.

use super::*;
use crate::chat::qos::QoS;

fn all() -> Vec<(Version, Vec<u8>)> {
    let of = |version| {
        let connect = whole(0x10, &[&correct_connect(version)]);
        correct(version).into_iter().chain([connect]).map(move |bytes| (version, bytes))
    };
    BOTH.into_iter().flat_map(of).collect()
}

/// Reads whatever it is, as a connection would.
fn read_all(version: Version, bytes: &[u8]) -> Result<(), PacketError> {
    match frame(bytes, version, WIDE.packet)? {
        Framing::Incomplete { wants } => {
            assert!(wants > bytes.len() && wants <= WIDE.packet, "{wants} of {bytes:x?}");
            Ok(())
        }
        Framing::Whole { first, body, total } => {
            assert!(body.end == total && total <= bytes.len());
            if first >> 4 == CONNECT {
                return connect(&bytes[body], &WIDE).map(|_| ()).map_err(|refused| refused.error);
            }
            match packet(version, first, &bytes[body], &WIDE)? {
                Packet::Publish(read) => passes_on(version, &read),
                _ => Ok(()),
            }
        }
    }
}

/// What is let in can be sent out, and is then correct for the strictest reader.
fn passes_on(version: Version, read: &Publish<'_>) -> Result<(), PacketError> {
    let out = PublishOut {
        dup: read.dup,
        qos: read.qos,
        retain: read.retain,
        topic: read.topic,
        id: read.id.unwrap_or_default(),
        alias: read.properties.alias,
        expiry_s: read.properties.expiry_s,
        subscriptions: &[],
        properties: &read.properties.forwarded,
        payload: read.payload,
    };
    let mut bytes = Vec::new();
    publish(&mut bytes, version, &out);
    let again = super::read(version, &bytes, &WIDE)?;
    assert_eq!(again, Packet::Publish(read.clone()), "{bytes:x?}");
    Ok(())
}

#[test]
fn a_packet_that_has_not_come_whole_is_waited_for() {
    for (version, bytes) in all() {
        for end in 0..bytes.len() {
            let Ok(Framing::Incomplete { wants }) = frame(&bytes[..end], version, WIDE.packet) else {
                panic!("{end} of {bytes:x?}");
            };
            assert!(wants > end && wants <= bytes.len());
        }
        let two = [&bytes[..], &bytes].concat();
        let Ok(Framing::Whole { first, body, total }) = frame(&two, version, WIDE.packet) else { panic!("{bytes:x?}") };
        assert_eq!((first, body.end, total), (bytes[0], total, bytes.len()));
        assert_eq!(read_all(version, &bytes), Ok(()), "{bytes:x?}");
    }
}

#[test]
fn a_packet_that_is_cut_at_any_byte_is_none() {
    for (version, bytes) in all() {
        let Ok(Framing::Whole { first, body, .. }) = frame(&bytes, version, WIDE.packet) else { panic!("{bytes:x?}") };
        let body = &bytes[body];
        for end in 0..body.len() {
            let judged = read_all(version, &whole(first, &[&body[..end]]));
            let kind = first >> 4;
            // A payload has no end of its own; MQTT 5 lets reasons be left out; one filter is a packet, too.
            let may_end = match kind {
                3 => body.ends_with(b"body") && body.len() - end <= 4,
                4..=7 => version == V5 && (end == 2 || end == 3),
                8 => matches!(&body[..end], [.., b'+', 2 | 0x2e]),
                10 => body[..end].ends_with(b"a/+"),
                14 => end <= 1,
                _ => false,
            };
            assert_eq!(judged.is_ok(), may_end, "{version:?} {end} of {body:x?}: {judged:?}");
        }
    }
}

#[test]
fn the_size_is_judged_before_anything_else_came() {
    let limit = 1_000;
    for (header, judged) in [
        (&[0x30, 0xe5, 0x07][..], Ok(Framing::Incomplete { wants: 1_000 })),
        (&[0x30, 0xe6, 0x07], Err(PacketError::PacketSize { size: 1_001, limit })),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], Err(PacketError::PacketSize { size: 268_435_460, limit })),
        (&[0x30, 0xff, 0xff, 0xff, 0xff], Err(PacketError::Length)),
        (&[0x36], Err(PacketError::Qos)),
        (&[0xd0], Err(PacketError::Direction(13))),
        (&[], Ok(Framing::Incomplete { wants: 2 })),
        (&[0x30], Ok(Framing::Incomplete { wants: 2 })),
        (&[0x30, 0x80, 0x80], Ok(Framing::Incomplete { wants: 4 })),
    ] {
        for version in BOTH {
            assert_eq!(frame(header, version, limit), judged, "{header:x?}");
        }
    }
    assert_eq!(frame(&[0xc0, 0x80, 0], V311, limit), Ok(Framing::Whole { first: 0xc0, body: 3..3, total: 3 }));
    assert_eq!(frame(&[0xc0, 0x80, 0], V5, limit), Err(PacketError::Padded));
}

/// As many as `WIRE_MUTATIONS` says.
#[test]
fn no_packet_that_was_tampered_with_does_harm() {
    let rounds = std::env::var("WIRE_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100_000);
    let seeds = all();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut accepted = 0;
    for _ in 0..rounds {
        let (version, seed) = &seeds[random(seeds.len())];
        let mut bytes = seed.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.insert(at, random(256) as u8),
                3 if bytes.len() > 2 => drop(bytes.remove(at)),
                _ => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 0x26, 0x23, b'#'][random(8)],
            }
        }
        if random(2) == 0 && bytes.len() > 2 && bytes.len() < 130 {
            // The length is right again: what is wrong lies deeper.
            bytes[1] = (bytes.len() - 2) as u8;
        }
        match read_all(*version, &bytes) {
            Ok(()) => accepted += 1,
            Err(error) => assert!(error.code() >= 0x80 && !error.reason().is_empty()),
        }
    }
    assert!(accepted > rounds / 50 && accepted < rounds, "{accepted} of {rounds}");
}

#[test]
fn a_publish_without_properties_is_borrowed_throughout() {
    let bytes = whole(0x32, &[&text("bal1/alice/messages"), b"\0\x01\0", b"body"]);
    let Ok(Packet::Publish(read)) = read(V5, &bytes, &LIMITS) else { panic!("{bytes:x?}") };
    let within = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr());
    assert!(within(read.topic.as_bytes()) && within(read.payload));
    assert!(matches!(read.properties.forwarded, std::borrow::Cow::Borrowed(_)));
    assert_eq!(read.qos, QoS::AtLeastOnce);
}
