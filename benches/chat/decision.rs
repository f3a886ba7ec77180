//! What one push decision costs.

use fcm_mqtt_bridge::chat::push_decision::{Asked, AskedDevice, Matter, PushWhen, Wish, decide};
use std::hint::black_box;
use tokio::time::Instant;

const ROUNDS: usize = 4_000;
/// Has no factor in common with the number of questions: all are asked, in an order that nothing can foresee.
const STRIDE: usize = 1_009;

/// Nanoseconds for one device, over all that can be asked.
pub(crate) fn nanoseconds() -> f64 {
    let questions = questions();
    let start = Instant::now();
    for round in 0..ROUNDS {
        for n in 0..questions.len() {
            let (when, asked, device) = questions[(n * STRIDE + round) % questions.len()];
            black_box(decide(black_box(when), black_box(asked), black_box(device)));
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / (ROUNDS * questions.len()) as f64
}

fn questions() -> Vec<(PushWhen, Asked, AskedDevice)> {
    let mut questions = Vec::new();
    for when in [PushWhen::AnyActiveSuppresses, PushWhen::PerDevice, PushWhen::Always] {
        for matter in [Matter::Message, Matter::Reaction, Matter::Invitation] {
            for wish in [Wish::Auto, Wish::Always, Wish::Never, Wish::Silent] {
                for bits in 0..=255_u8 {
                    let is = |bit: u8| bits & 1 << bit != 0;
                    let asked = Asked {
                        matter,
                        wish,
                        own: is(0),
                        blocked: is(1),
                        muted: is(2),
                        mentions_only: is(3),
                        mentioned: is(4),
                        attended: is(5),
                    };
                    let device = AskedDevice {
                        has_token: is(6),
                        attended: is(7),
                        was_told: false,
                        is_quiet: false,
                        has_room: true,
                    };
                    questions.push((when, asked, device));
                }
            }
        }
    }
    questions
}
