//! A user asks for everything that is kept, and proves to be there: a session that somebody else got hold of does not take all of it
//! away. Who has proved it once gets the pages that follow.

use super::erase::prove;
use super::requests::{Asked, carry_out, document, tell};
use super::{Remaining, TakeError};
use crate::bridge::context::Context;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::suffix::requests::Op;
use crate::chat::topic::Device;
use crate::mqtt::AckWord;
use crate::store::ChatCall;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How long after a page the next one may be asked for, in milliseconds.
const OPEN_MS: u64 = 3_600_000;
/// Exports that go on at one time; of more, the one that was asked for longest ago is to be proved again.
const OPEN_MAX: usize = 1_000;

/// Who has proved it, and until when that counts: Unix milliseconds. Under a mutex; held for an operation on the map.
#[derive(Debug, Clone, Default)]
pub(super) struct Exports(Arc<Mutex<HashMap<(Owner, Device), u64>>>);

impl Exports {
    fn open(&self, user: &Owner, dev: &Device, now: u64) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, until| *until > now);
        let oldest = open.iter().min_by_key(|(_, until)| **until).map(|(of, _)| of.clone());
        if let Some(oldest) = oldest.filter(|_| open.len() >= OPEN_MAX) {
            open.remove(&oldest);
        }
        open.insert((user.clone(), dev.clone()), now.saturating_add(OPEN_MS));
    }

    /// Whoever has this name from now on is somebody else.
    pub(super) fn forget(&self, user: &Owner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != user);
    }

    /// With each page it counts anew.
    fn goes_on(&self, user: &Owner, dev: &Device, now: u64) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = open.get_mut(&(user.clone(), dev.clone())).filter(|until| **until > now);
        until.map(|until| *until = now.saturating_add(OPEN_MS)).is_some()
    }
}

pub(super) async fn answer(
    context: &Arc<Context>,
    exports: &Exports,
    asked: Asked,
    call: ChatCall,
) -> Result<Remaining, TakeError> {
    let (context, exports) = (Arc::clone(context), exports.clone());
    Ok(Box::pin(async move {
        let (user, dev, at) = (&asked.user, &asked.dev, call.at);
        let proved = match &asked.request.op {
            Op::Export { secret: Some(secret), .. } => {
                prove(&context, user, secret.reveal()).await.map(|()| exports.open(user, dev, at))
            }
            _ if exports.goes_on(user, dev, at) => Ok(()),
            _ => Err(Rejection::new(ErrorCode::Forbidden, "`password` or `token` is to be given again")),
        };
        if let Err(rejection) = proved {
            let payload = document(asked.request.id.as_ref(), Err(rejection));
            tell(&context, user, dev, payload, at).await?.await?;
            return Ok(Some(AckWord::Done));
        }
        carry_out(&context, asked, call).await
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_counts_for_the_device_that_gave_it_and_as_long_as_it_goes_on() {
        let (exports, bob) = (Exports::default(), Owner::new("bob").unwrap());
        let [phone, web] = ["phone", "web"].map(|dev| Device::new(dev).unwrap());
        assert!(!exports.goes_on(&bob, &phone, 0));
        exports.open(&bob, &phone, 0);
        assert!(exports.goes_on(&bob, &phone, OPEN_MS - 1) && !exports.goes_on(&bob, &web, 1));
        assert!(exports.goes_on(&bob, &phone, 2 * OPEN_MS - 2));
        assert!(!exports.goes_on(&bob, &phone, 3 * OPEN_MS - 2));
        exports.open(&bob, &phone, 0);
        exports.forget(&bob);
        assert!(!exports.goes_on(&bob, &phone, 1), "whoever has the name is somebody else");
    }

    #[test]
    fn so_many_go_on_and_no_more() {
        let (exports, phone) = (Exports::default(), Device::new("phone").unwrap());
        let user = |n: usize| Owner::new(format!("u{n}")).unwrap();
        for n in 0..=OPEN_MAX {
            exports.open(&user(n), &phone, n as u64);
        }
        assert!(!exports.goes_on(&user(0), &phone, 1) && exports.goes_on(&user(1), &phone, 1));
        assert_eq!(exports.0.lock().unwrap().len(), OPEN_MAX);
    }
}
