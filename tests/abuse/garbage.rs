//! Packets that are nearly right.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::packets::{packet, puback, publish, subscribe};
use super::scenario;
use super::sockets::SocketKind;

/// Conversations, each with at least one packet that was changed.
const CONVERSATIONS: usize = 20_000;
const AT_A_TIME: usize = 32;
/// How long the answer to one is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// A conversation of MQTT 3.1.1 or 5 that uses most of the protocol, on topics of its own: sessions that stay behind
/// are not to collect what all others say.
fn sentences(version: u8, client: &str) -> Vec<Vec<u8>> {
    let topic = |rest: &str| format!("{client}/{rest}");
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    if version == 4 {
        let will = [&[4, 0b1110, 0, 30][..], &text(client), &text(&topic("will")), &text("bye")].concat();
        return vec![
            packet(0x10, &[text("MQTT"), will].concat()),
            subscribe(&topic("#"), 2),
            publish(&topic("one"), Some(1), b"payload"),
            publish(&topic("self/messages"), Some(2), br#"{"id":"x","token":"t","data":{}}"#),
            packet(0x34, &[&text(&topic("two"))[..], &[0, 3], b"exactly once"].concat()),
            packet(0x62, &[0, 3]),
            puback(1),
            packet(0xa2, &[&[0, 4][..], &text(&topic("#"))].concat()),
            packet(0xc0, &[]),
            packet(0xe0, &[]),
        ];
    }
    let properties =
        [&[0x11, 0, 0, 0, 60, 0x21, 0, 10, 0x27, 0, 1, 0, 0][..], &[0x26], &text("k"), &text("v")].concat();
    let sized = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let aliased = [&[0x02, 0, 0, 0, 9, 0x23, 0, 1, 0x08][..], &text(&topic("answer"))].concat();
    vec![
        packet(0x10, &[text("MQTT"), vec![5, 2, 0, 30], sized(&properties), text(client)].concat()),
        packet(0x82, &[&[0, 1][..], &sized(&[0x0b, 7]), &text(&topic("+")), &[0b10_1110]].concat()),
        packet(0x82, &[&[0, 2, 0][..], &text(&format!("$share/g/{client}/#")), &[1]].concat()),
        packet(0x32, &[&text(&topic("one"))[..], &[0, 1], &sized(&aliased), b"payload"].concat()),
        packet(0x34, &[&text("")[..], &[0, 2], &sized(&[0x23, 0, 1]), b"again"].concat()),
        packet(0x62, &[0, 2, 0, 0]),
        packet(0x50, &[0, 1, 0]),
        packet(0xf0, &[0x18, 3, 0x15, 0, 0]),
        packet(0xc0, &[]),
        packet(0xe0, &[0x04, 5, 0x11, 0, 0, 0, 1]),
    ]
}

/// Changes something in one to three of the packets, after the first in most cases: few get past a broken CONNECT.
fn mutate(sentences: &mut Vec<Vec<u8>>, random: &mut Xoshiro256PlusPlus) {
    for _ in 0..random.random_range(1..=3) {
        let first = usize::from(random.random_bool(0.8));
        let at = random.random_range(first..sentences.len());
        let sentence = &mut sentences[at];
        let place = random.random_range(0..sentence.len());
        match random.random_range(0..8) {
            0 => sentence[place] = random.random(),
            1 => sentence[place] ^= 1 << random.random_range(0..8),
            2 => sentence[place] = [0, 0x7f, 0x80, 0xff][random.random_range(0..4)],
            3 => sentence.insert(place, random.random()),
            4 => drop(sentence.remove(place)),
            5 => sentence.truncate(place + 1),
            6 => sentences.swap(at, first),
            _ => {
                let again = sentence.clone();
                sentences.insert(at, again);
            }
        }
        sentences.retain(|sentence| !sentence.is_empty());
        if sentences.len() < 2 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn twenty_thousand_conversations_with_mutated_packets() {
    scenario("mutated packets", 128, async |harness| {
        let to = harness.address(SocketKind::Tcp);
        let talk = async |worker: usize| {
            let mut answered = 0;
            for n in (worker..CONVERSATIONS).step_by(AT_A_TIME) {
                // The seed is the number, so that a conversation that does harm can be had again.
                let mut random = Xoshiro256PlusPlus::seed_from_u64(n as u64);
                let version = if n % 2 == 0 { 4 } else { 5 };
                let mut words = sentences(version, &format!("mad-{}", n % 500));
                mutate(&mut words, &mut random);
                let socket = TcpSocket::new_v4().unwrap();
                let from = [127, 0, 3, u8::try_from(n % 200).unwrap() + 1];
                socket.bind((from, 0).into()).unwrap();
                let mut stream = socket.connect(to).await.unwrap();
                let _ = stream.write_all(&words.concat()).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
                answered += usize::from(!answer.is_empty());
            }
            answered
        };
        let answered: usize = futures_util::future::join_all((0..AT_A_TIME).map(talk)).await.into_iter().sum();
        assert!(answered > CONVERSATIONS / 2, "most of them get past the CONNECT: {answered}");
        format!("{CONVERSATIONS} conversations, {answered} of them answered")
    })
    .await;
}
