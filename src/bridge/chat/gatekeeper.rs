//! Who may write to users who leave that to a BAL: it is asked for each stranger, and its answers count as long as it says.

use crate::bridge::context::Context;
use crate::chat::gatekeeper::{GateAnswer, GateAnswers, question};
use crate::chat::id::{Owner, Sid};
use crate::chat::suffix::requests::Writers;
use crate::chat::topic::inbox_topic;
use crate::mqtt::{Outbound, Outcome};
use crate::ops::clock::now_ms;
use crate::store::StoreError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long it may take for an answer. Without one nobody is let in.
const ANSWER: Duration = Duration::from_secs(2);
/// Questions that are open at one time, at most; beyond it nobody is let in.
const QUESTIONS_MAX: usize = 256;

/// Asks a BAL; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gatekeeper {
    bal: Owner,
    /// A lock because messages are asked about in futures of their own; held for an operation on memory.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    answers: GateAnswers,
    open: HashMap<Sid, oneshot::Sender<GateAnswer>>,
}

/// A question that is open as long as this lives.
struct Open<'a>(&'a Gatekeeper, Sid);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().open.remove(&self.1);
    }
}

impl Gatekeeper {
    pub(super) fn new(bal: Owner) -> Self {
        Self { bal, state: Arc::default() }
    }

    /// Whether this is the BAL.
    pub(super) fn is(&self, bal: &Owner) -> bool {
        self.bal == *bal
    }

    /// It answers. What comes too late means nothing.
    pub(super) fn answered(&self, answer: GateAnswer) {
        if let Some(asked) = self.state().open.remove(&answer.question) {
            let _ = asked.send(answer);
        }
    }

    /// Questions that may be open at one time.
    pub(super) fn questions_max(context: &Context) -> usize {
        // Half of what is worked on at one time is left for everybody else.
        (context.settings.limits.inflight_publishes / 2).clamp(1, QUESTIONS_MAX)
    }

    /// Whether `from` is let in to `to`, as far as that has to be asked.
    pub(super) async fn lets_in(&self, context: &Context, from: &Owner, to: &Owner) -> Result<bool, StoreError> {
        match self.knows(context, from, to).await? {
            Some(ok) => Ok(ok),
            None => Ok(self.ask(context, from, to).await),
        }
    }

    /// The same, if it need not be asked now.
    pub(super) async fn knows(&self, context: &Context, from: &Owner, to: &Owner) -> Result<Option<bool>, StoreError> {
        let settings = context.store.chat_settings(to.clone()).await?.await?;
        let writers = settings.and_then(|settings| settings.writers).unwrap_or(context.settings.chat.who_may_write);
        // A contact that is blocked is none to be asked about either: how long it takes would show the block.
        if writers != Writers::Gatekeeper || context.store.chat_lists_contact(to.clone(), from.clone()).await?.await? {
            return Ok(Some(false));
        }
        Ok(self.state().answers.get(from, to, now_ms()))
    }

    pub(super) async fn ask(&self, context: &Context, from: &Owner, to: &Owner) -> bool {
        let (id, at) = context.next_sid();
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state();
            if state.open.len() >= Self::questions_max(context) {
                return false;
            }
            state.open.insert(id, tell);
        }
        let _open = Open(self, id);
        let (outbound, outcome) = Outbound::new(inbox_topic(&self.bal, "requests"), question(id, from, to, at));
        // In a session that is kept it is not to be found later.
        let outbound = Outbound { expires_at: Some(at.saturating_add(ANSWER.as_millis() as u64)), ..outbound };
        let asked = async {
            context.publish.send(outbound).await.ok()?;
            tokio::select! {
                answer = told => answer.ok(),
                // Nobody is there who could answer.
                Ok(Outcome::NoReader) = outcome => None,
            }
        };
        let Ok(Some(answer)) = timeout(ANSWER, asked).await else { return false };
        self.state().answers.keep(from, to, answer, now_ms());
        answer.ok
    }

    /// Whoever has this name from now on is somebody else.
    pub(super) fn forget(&self, user: &Owner) {
        self.state().answers.forget(user);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
