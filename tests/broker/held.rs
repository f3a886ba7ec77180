//! Acknowledgements that are held back, and what may happen meanwhile: the connection is cut or taken over, the message comes
//! again, the broker is stopped.

use fcm_mqtt_bridge::mqtt::AckWord;

use super::harness::Harness;
use super::peer::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen, V5, V311};

const OUTBOX: &str = "bal1/self/messages";
/// Server shutting down.
const SHUTTING_DOWN: u8 = 0x8b;

#[tokio::test]
async fn the_word_for_a_connection_that_was_cut_acknowledges_nothing_on_the_next_one() {
    for version in [V311, V5] {
        for clean in [true, false] {
            let mut harness = Harness::open().await;
            let expiry = if clean { 0 } else { 3600 };
            let connect = || Connect { client: "bal1", version, clean, expiry, ..Connect::default() };
            let (mut cut, _) = Peer::connect(&harness, connect()).await;
            cut.publish(OUTBOX, 1, "cut").await;
            let held = harness.inbound().await;
            drop(cut);
            let (mut bal, _) = Peer::connect(&harness, connect()).await;
            bal.publish(OUTBOX, 1, "another").await;
            let another = harness.inbound().await;
            assert_eq!(&another.payload[..], b"another");
            held.ack.release(AckWord::Done);
            bal.quiet().await;
            another.ack.release(AckWord::Done);
            assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, 0));
            harness.close().await;
        }
    }
}

#[tokio::test]
async fn a_qos_2_message_that_comes_again_on_the_next_connection_while_it_is_held_is_answered_once() {
    for version in [V311, V5] {
        for taken_over in [true, false] {
            let mut harness = Harness::open().await;
            let connect = || Connect { client: "bal1", version, clean: false, expiry: 3600, ..Connect::default() };
            let (mut first, _) = Peer::connect(&harness, connect()).await;
            first.publish_with(0b0100, OUTBOX, 7, &[], "once").await;
            let held = harness.inbound().await;
            if !taken_over {
                drop(first);
            }
            let (mut bal, resumed) = Peer::connect(&harness, connect()).await;
            assert!(resumed);
            bal.publish_with(0b1100, OUTBOX, 7, &[], "once").await;
            bal.quiet().await;
            // The bridge may be asked again, if it is told that it may know the message.
            if let Ok(again) = harness.port.inbound.try_recv() {
                assert!(again.dup, "a second message for the bridge");
                again.ack.release(AckWord::Done);
            }
            held.ack.release(AckWord::Done);
            assert_eq!(bal.next().await, Seen::Ack(PUBREC, 7, 0));
            bal.quiet().await;
            bal.ack(PUBREL, 7).await;
            assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 7, 0));
            harness.close().await;
        }
    }
}

#[tokio::test]
async fn an_orderly_stop_does_not_wait_for_words_and_acknowledges_nothing_without_them() {
    for version in [V311, V5] {
        let mut harness = Harness::open().await;
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        for (id, flags) in [(1, 0b0010), (2, 0b0100)] {
            bal.publish_with(flags, OUTBOX, id, &[], "held").await;
        }
        let (first, second) = (harness.inbound().await, harness.inbound().await);
        harness.stop().await;
        let seen = bal.next().await;
        assert!(matches!(seen, Seen::Closed | Seen::Disconnect(SHUTTING_DOWN)), "{seen:?}");
        // Said to nobody.
        first.ack.release(AckWord::Done);
        second.ack.release(AckWord::Done);
    }
}
