//! What is written is read again as what it was.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::chat::qos::QoS;

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&BOTH[..])
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3_u8).prop_map(|number| QoS::from_u8(number).unwrap())
}

fn words() -> impl Strategy<Value = String> {
    "[a-zäß/ $]{1,20}"
}

/// A property that is passed on, in wire form.
fn forwarded() -> impl Strategy<Value = Vec<u8>> {
    let pair = (words(), words()).prop_map(|(name, value)| [vec![0x26], text(name), text(value)].concat());
    let once = (any::<[bool; 4]>(), words(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |([format, kind, answer, correlation], word, data)| {
            let parts = [
                (format, vec![0x01, 1]),
                (kind, [vec![0x03], text(&word)].concat()),
                (answer, [vec![0x08], text(&word)].concat()),
                (correlation, [vec![0x09], text(data)].concat()),
            ];
            parts.into_iter().filter(|(is_there, _)| *is_there).flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>()
        },
    );
    (once, prop::collection::vec(pair, 0..4)).prop_map(|(once, pairs)| [once, pairs.concat()].concat())
}

proptest! {
    #[test]
    fn publishes(
        (version, qos, id, topic) in (version(), qos(), 1..=u16::MAX, words()),
        (dup, retain, has_topic) in any::<(bool, bool, bool)>(),
        (alias, expiry_s) in (prop::option::of(1..=u16::MAX), any::<Option<u32>>()),
        properties in forwarded(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let topic = if has_topic || alias.is_none() || version == V311 { topic.as_str() } else { "" };
        let dup = dup && qos != QoS::AtMostOnce;
        let written = PublishOut {
            dup, qos, retain, topic, id, alias, expiry_s, subscriptions: &[], properties: &properties, payload: &payload,
        };
        let mut out = vec![];
        publish(&mut out, version, &written);
        prop_assert_eq!(out.len(), publish_size(version, &written));
        let Packet::Publish(read) = read(version, &out, &WIDE).unwrap() else { panic!("another packet") };
        prop_assert_eq!((read.dup, read.qos, read.retain, read.topic), (dup, qos, retain, topic));
        prop_assert_eq!(read.id, (qos != QoS::AtMostOnce).then_some(id));
        prop_assert_eq!(read.payload, payload);
        prop_assert!(!read.over_limit);
        if version == V5 {
            prop_assert!(matches!(read.properties.forwarded, Cow::Borrowed(same) if same == properties));
            prop_assert_eq!((read.properties.alias, read.properties.expiry_s), (alias, expiry_s));
        } else {
            prop_assert_eq!(read.properties, MessageProperties::default());
        }
    }

    #[test]
    fn acknowledgements(
        version in version(),
        kind in prop::sample::select(&[AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp][..]),
        (id, code, reason) in (1..=u16::MAX, any::<prop::sample::Index>(), prop::option::of(words())),
        (max_packet, reasons) in (4..60_usize, any::<bool>()),
    ) {
        let is_receipt = matches!(kind, AckKind::Puback | AckKind::Pubrec);
        let codes = if is_receipt { OF_RECEIPT } else { OF_RELEASE };
        let said = Ack { id, code: *code.get(codes) };
        let mut out = Vec::new();
        let fits = ack(&mut out, ClientEncoding { version, max_packet, reasons }, kind, said, reason.as_deref());
        prop_assert!(out.len() <= max_packet);
        prop_assert_eq!(fits, max_packet > 4 || version == V311 || said.code == 0);
        if fits {
            let expected = Ack { code: if version == V311 { 0 } else { said.code }, ..said };
            let read = read(version, &out, &WIDE).unwrap();
            prop_assert_eq!(read, match kind {
                AckKind::Puback => Packet::Puback(expected),
                AckKind::Pubrec => Packet::Pubrec(expected),
                AckKind::Pubrel => Packet::Pubrel(expected),
                AckKind::Pubcomp => Packet::Pubcomp(expected),
            });
        }
    }

    #[test]
    fn subscriptions(
        (version, id, number) in (version(), 1..=u16::MAX, prop::option::of(1..=268_435_455_u32)),
        asked in prop::collection::vec((words(), 0..3_u8, any::<bool>()), 1..20),
    ) {
        let is_v5 = version == V5;
        let options = |qos: u8, more: bool| if is_v5 && more { qos | 0x2c } else { qos };
        let mut own = Vec::new();
        if let Some(number) = number {
            own.push(0x0b);
            fields::put_varint(&mut own, number as usize);
        }
        let entries: Vec<u8> =
            asked.iter().flat_map(|(filter, qos, more)| [text(filter), vec![options(*qos, *more)]].concat()).collect();
        let bytes = whole(0x82, &[&id.to_be_bytes(), &properties(version, &own), &entries]);
        let Packet::Subscribe(read) = read(version, &bytes, &WIDE).unwrap() else { panic!("another packet") };
        prop_assert_eq!(read.id, id);
        let filters = asked.iter().map(|(text, qos, more)| {
            (Filter { text, refused: None }, Options::read(options(*qos, *more), number.filter(|_| is_v5)).unwrap())
        });
        prop_assert_eq!(read.filters, filters.collect::<Vec<_>>());

        let entries: Vec<u8> = asked.iter().flat_map(|(filter, ..)| text(filter)).collect();
        let bytes = whole(0xa2, &[&id.to_be_bytes(), &properties(version, b""), &entries]);
        let Packet::Unsubscribe(read) = super::read(version, &bytes, &WIDE).unwrap() else { panic!("another packet") };
        let filters: Vec<_> = asked.iter().map(|(text, ..)| Filter { text, refused: None }).collect();
        prop_assert_eq!(read, Unsubscribe { id, filters });
    }

    #[test]
    fn connects(
        (version, clean, keep_alive, client) in (version(), any::<bool>(), any::<u16>(), words()),
        (user, password, will) in (prop::option::of(words()), prop::option::of(words()), prop::option::of(words())),
        (expiry, receive, most) in (any::<u32>(), 1..=u16::MAX, 1..=u32::MAX),
        (qos, retain, message) in (qos(), any::<bool>(), forwarded()),
    ) {
        let is_v5 = version == V5;
        let password = password.filter(|_| is_v5 || user.is_some());
        let mut flags = u8::from(clean) << 1 | u8::from(user.is_some()) << 7 | u8::from(password.is_some()) << 6;
        if will.is_some() {
            flags |= 0x04 | (qos as u8) << 3 | u8::from(retain) << 5;
        }
        let own = [&[0x11][..], &expiry.to_be_bytes(), &[0x21], &receive.to_be_bytes(), &[0x27], &most.to_be_bytes()];
        let mut body = [&text("MQTT")[..], &[if is_v5 { 5 } else { 4 }, flags], &keep_alive.to_be_bytes()].concat();
        body.extend([properties(version, &own.concat()), text(&client)].concat());
        if let Some(topic) = &will {
            body.extend([properties(version, &message), text(topic), text("bye")].concat());
        }
        user.iter().chain(&password).for_each(|field| body.extend(text(field)));
        let read = connect(&body, &WIDE).unwrap();
        prop_assert_eq!((read.version, read.clean, read.keep_alive, read.client), (version, clean, keep_alive, &*client));
        prop_assert_eq!((read.user, read.password), (user.as_deref(), password.as_deref().map(str::as_bytes)));
        prop_assert_eq!(read.session_expiry_s, if is_v5 { expiry } else if clean { 0 } else { u32::MAX });
        prop_assert_eq!((read.receive_maximum, read.max_packet), if is_v5 { (receive, Some(most)) } else { (u16::MAX, None) });
        let seen = read.will.map(|will| (will.topic, will.qos, will.retain, will.properties.forwarded.into_owned()));
        let message = if is_v5 { message } else { vec![] };
        prop_assert_eq!(seen, will.as_deref().map(|topic| (topic, qos, retain, message)));
    }
}

#[test]
fn properties_that_are_passed_on_are_copied_only_where_another_stands_between_them() {
    let read_them = |properties: &[u8]| {
        let bytes = whole(0x30, &[&text("a"), &super::properties(V5, properties), b"x"]);
        let Ok(Packet::Publish(read)) = read(V5, &bytes, &LIMITS) else { panic!("{bytes:x?}") };
        assert_eq!((read.topic, read.payload), ("a", &b"x"[..]));
        let is_borrowed = matches!(read.properties.forwarded, Cow::Borrowed(_));
        (read.properties.forwarded.into_owned(), is_borrowed, read.properties.user)
    };
    let (user, expiry, alias) = (&b"\x26\0\x01k\0\x01v"[..], &b"\x02\0\0\0\x09"[..], &b"\x23\0\x01"[..]);
    assert_eq!(read_them(b""), (vec![], true, 0));
    assert_eq!(read_them(&[expiry, alias].concat()), (vec![], true, 0));
    assert_eq!(read_them(&[expiry, user, user, alias].concat()), ([user, user].concat(), true, 2));
    assert_eq!(
        read_them(&[user, expiry, b"\x01\x01", alias, user].concat()),
        ([user, b"\x01\x01", user].concat(), false, 2)
    );
}

#[test]
fn a_goodbye_is_read() {
    let said = |bytes: &[u8]| match read(V5, bytes, &LIMITS) {
        Ok(Packet::Disconnect(Disconnect { code, session_expiry_s })) => (code, session_expiry_s),
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&[0xe0, 0]), (0, None));
    assert_eq!(said(&[0xe0, 1, 4]), (4, None));
    assert_eq!(said(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9]), (0, Some(9)));
    assert_eq!(read(V311, &[0xe0, 0], &LIMITS), Ok(Packet::Disconnect(Disconnect { code: 0, session_expiry_s: None })));
}
