//! Who is let in, under which client id, and what stands in the log if somebody is not.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::confirm::Ledger;
use super::frames::Version;
use super::frames::connect::Hello;
use super::identity::{CLIENT_ID_MAX, Caller, Denied, Doorman, Login, assigned, device_of, session_key};
use super::link::{ChosenBy, Link, Name};
use super::refusals::{Refusal, Refusals};
use super::turns::Turns;
use crate::chat::access::Rights;
use crate::chat::principal::{Identity, Role};

/// How long a log-in may take, with everything for which it has to wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rules of the door.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) doorman: Arc<Doorman>,
    pub(super) ledger: Arc<Ledger>,
    /// The limit on sessions.
    pub(super) sessions: usize,
    pub(super) turns: Arc<Turns>,
    /// Messages per second of one chat user's connection.
    pub(super) publish_rate: Option<NonZeroU32>,
    pub(super) refusals: Arc<Refusals>,
}

impl Admission {
    /// Lets a client in, as far as `link` then says. Yields the key of its session.
    ///
    /// # Errors
    ///
    /// If it may not come in.
    pub(super) async fn admit(&self, hello: &Hello<'_>, peer: SocketAddr, link: &Arc<Link>) -> Result<String, Denied> {
        let admitted = timeout(PATIENCE, async {
            let key = self.identify(hello, peer, link).await?;
            // Not before it is known who this is: nobody has to wait for a stranger.
            link.keep(self.turns.take(&key).await);
            Ok(key)
        });
        admitted.await.unwrap_or_else(|_late| Err(Refusal::Busy.into()))
    }

    async fn identify(&self, hello: &Hello<'_>, peer: SocketAddr, link: &Arc<Link>) -> Result<String, Denied> {
        let name = client_id(hello)?;
        if hello.has_auth_method {
            return Err(Refusal::AuthMethod.into());
        }
        let login = Login { user: hello.user, password: hello.password, address: peer.ip() };
        let caller = self.doorman.login(login).await?;
        let user = match &caller {
            Caller::Anonymous => None,
            Caller::Known(identity, _) => Some(&*identity.user),
        };
        let key = session_key(user, &name.client);
        let (known, sessions) = self.ledger.census(&key);
        if !known && sessions >= self.sessions {
            return Err(Refusal::Sessions.into());
        }
        let place = self.doorman.enter(&caller, &key, Arc::clone(link) as _)?;
        let device = user.map(|user| device_of(user, &name.client).into());
        link.call(Name { device, ..name });
        link.admit(&caller, place);
        if matches!(&caller, Caller::Known(Identity { role: Role::User, .. }, _)) {
            link.set_publish_rate(self.publish_rate);
        }
        self.look_at_will(hello, &caller.rights(), link);
        Ok(key)
    }

    /// A will that its client may not write does not keep it out: it is not published.
    fn look_at_will(&self, hello: &Hello<'_>, rights: &Rights, link: &Link) {
        if let Some(topic) = hello.will_topic
            && !rights.may_publish(topic)
            && let Some(who) = link.who()
        {
            self.refusals.tell(Refusal::WillTopic, &who, topic);
        }
    }
}

/// What the client is called: as it wishes, as long as that is not too long.
fn client_id(hello: &Hello<'_>) -> Result<Name, Denied> {
    let (client, chosen_by) = match hello.client {
        // [MQTT-3.1.3-8] of 3.1.1: without an id nobody could find the session again. MQTT 5 tells the client its id.
        "" if hello.connect.version == Version::V311 && !hello.clean => return Err(Refusal::ClientIdMissing.into()),
        "" => (assigned(rand::random()).into(), ChosenBy::Broker),
        id if id.len() > CLIENT_ID_MAX => {
            return Err(Denied { refusal: Refusal::ClientIdLength, detail: format!("{} bytes", id.len()) });
        }
        id => (id.into(), ChosenBy::Client),
    };
    Ok(Name { client, chosen_by, device: None })
}
