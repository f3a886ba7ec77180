//! What an operator asks of the bridge while it runs: one table of verbs, for the control socket and for `_bridge/commands`.

use super::id::{MessageId, Owner, short_hash};
use super::message::fields::Fields;
use super::message::{ErrorCode, Limits, Rejection};
use super::suffix::messages::BODY_MAX;
use super::suffix::read::peer;
use super::topic::Device;
use super::transport::Transport;

/// A command as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRequest {
    /// The asker's own word for it: each document of the answer has it as `ref`.
    pub id: Option<MessageId>,
    /// What is asked for.
    pub command: Command,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `user.erase`: everything of a user goes.
    UserErase(Owner),
    /// `user.export`: everything that is kept of a user.
    UserExport(Owner),
    /// `user.free`: the name of an erased user may be used again.
    UserFree(Owner),
    /// `device.list`: the devices of a user that have a token.
    DeviceList(Owner),
    /// `device.forget`: takes the registration of a device back.
    DeviceForget(Owner, Device),
    /// `send`: a message, followed to its end.
    Send {
        /// The BAL in whose name it goes; `None`: the first that the configuration names.
        from: Option<Owner>,
        /// The user that it is for.
        to: Owner,
        /// What it says.
        text: String,
    },
    /// `pause`: sends nothing more by these transports. What is on its way goes on.
    Pause(Sending),
    /// `drain`: the same, and answers when nothing is on its way any more.
    Drain(Sending),
    /// `resume`: sends again.
    Resume(Sending),
    /// `flush`: what was refused and waits to be tried again is tried now.
    Flush(Sending),
}

/// By which transports; `None`: by all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending(pub Option<Transport>);

impl Command {
    /// Its `op`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UserErase(_) => "user.erase",
            Self::UserExport(_) => "user.export",
            Self::UserFree(_) => "user.free",
            Self::DeviceList(_) => "device.list",
            Self::DeviceForget(..) => "device.forget",
            Self::Send { .. } => "send",
            Self::Pause(_) => "pause",
            Self::Drain(_) => "drain",
            Self::Resume(_) => "resume",
            Self::Flush(_) => "flush",
        }
    }
}

impl Command {
    /// Whom or what it is about, for the log: a user, or a transport. Of whoever is erased the log keeps no name, but its hash.
    pub fn target(&self) -> Option<String> {
        match self {
            Self::UserErase(user) | Self::UserFree(user) => Some(format!("hash {}", short_hash(user.as_str()))),
            Self::UserExport(user) | Self::DeviceList(user) | Self::Send { to: user, .. } => Some(user.to_string()),
            Self::DeviceForget(user, device) => Some(format!("{user}:{}", device.as_str())),
            Self::Pause(sending) | Self::Drain(sending) | Self::Resume(sending) | Self::Flush(sending) => {
                sending.0.as_ref().map(ToString::to_string)
            }
        }
    }
}

impl CommandRequest {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md, and with the id of the command if that could be read.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let id = fields.id()?;
        // A name that is misspelt must not make it a command about everything.
        match read(&mut fields).and_then(|command| fields.nothing_else().map(|()| command)) {
            Ok(command) => Ok(Self { id, command }),
            Err(rejection) => Err(rejection.about(id)),
        }
    }
}

fn read(fields: &mut Fields) -> Result<Command, Rejection> {
    fields.version()?;
    let op = required(fields, "op")?;
    Ok(match op.as_str() {
        "user.erase" => Command::UserErase(peer(fields, "user")?),
        "user.export" => Command::UserExport(peer(fields, "user")?),
        "user.free" => Command::UserFree(peer(fields, "user")?),
        "device.list" => Command::DeviceList(peer(fields, "user")?),
        "device.forget" => Command::DeviceForget(peer(fields, "user")?, device(fields)?),
        "send" => send(fields)?,
        "pause" => Command::Pause(sending(fields)?),
        "drain" => Command::Drain(sending(fields)?),
        "resume" => Command::Resume(sending(fields)?),
        "flush" => Command::Flush(sending(fields)?),
        _ => return Err(Rejection::bad_field("op", "is none that this release knows")),
    })
}

fn required(fields: &mut Fields, name: &str) -> Result<String, Rejection> {
    let missing = || Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing"));
    fields.string(name)?.ok_or_else(missing)
}

fn device(fields: &mut Fields) -> Result<Device, Rejection> {
    Device::new(required(fields, "dev")?).map_err(|fault| Rejection::bad_field("dev", fault))
}

fn send(fields: &mut Fields) -> Result<Command, Rejection> {
    let from = if fields.has("from") { Some(peer(fields, "from")?) } else { None };
    let (to, text) = (peer(fields, "to")?, required(fields, "text")?);
    if text.is_empty() || text.chars().count() > BODY_MAX {
        return Err(Rejection::bad_field("text", format_args!("is empty, or longer than {BODY_MAX} characters")));
    }
    Ok(Command::Send { from, to, text })
}

fn sending(fields: &mut Fields) -> Result<Sending, Rejection> {
    let Some(name) = fields.string("transport")? else { return Ok(Sending(None)) };
    let transport = Transport::parse(&name).map_err(|fault| Rejection::bad_field("transport", fault))?;
    Ok(Sending(Some(transport)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(payload: &Value) -> Result<Command, ErrorCode> {
        let parsed = CommandRequest::parse(payload.to_string().as_bytes(), &Limits::default());
        parsed.map(|request| request.command).map_err(|rejection| rejection.code())
    }

    #[test]
    fn every_verb_is_read() {
        let bob = || Owner::new("bob").unwrap();
        let ccs = || Sending(Some(Transport::Ccs));
        let text = || "hi there".to_owned();
        for (payload, command) in [
            (json!({"op": "user.erase", "user": "bob"}), Command::UserErase(bob())),
            (json!({"op": "user.export", "user": "bob"}), Command::UserExport(bob())),
            (json!({"op": "user.free", "user": "bob"}), Command::UserFree(bob())),
            (json!({"op": "device.list", "user": "bob"}), Command::DeviceList(bob())),
            (
                json!({"op": "device.forget", "user": "bob", "dev": "phone"}),
                Command::DeviceForget(bob(), Device::new("phone").unwrap()),
            ),
            (json!({"op": "send", "to": "bob", "text": text()}), Command::Send { from: None, to: bob(), text: text() }),
            (
                json!({"op": "send", "from": "bal1", "to": "bob", "text": text()}),
                Command::Send { from: Some(Owner::new("bal1").unwrap()), to: bob(), text: text() },
            ),
            (json!({"op": "pause"}), Command::Pause(Sending(None))),
            (json!({"op": "drain", "transport": "ccs"}), Command::Drain(ccs())),
            (json!({"op": "resume", "transport": "ccs"}), Command::Resume(ccs())),
            (json!({"op": "flush"}), Command::Flush(Sending(None))),
        ] {
            assert_eq!(parse(&payload), Ok(command), "{payload}");
        }
    }

    #[test]
    fn the_log_is_told_whom_a_command_is_about_and_not_the_name_of_whoever_is_erased() {
        let bob = || Owner::new("bob").unwrap();
        let send = Command::Send { from: None, to: bob(), text: "a secret".to_owned() };
        assert_eq!(send.target().as_deref(), Some("bob"));
        let forget = Command::DeviceForget(bob(), Device::new("phone").unwrap());
        assert_eq!(forget.target().as_deref(), Some("bob:phone"));
        assert_eq!(Command::Pause(Sending(Some(Transport::Ccs))).target().as_deref(), Some("ccs"));
        assert_eq!(Command::Flush(Sending(None)).target(), None);
        assert_eq!(Command::UserErase(bob()).target(), Some(format!("hash {}", short_hash("bob"))));
    }

    #[test]
    fn anything_else_is_told() {
        for (payload, code) in [
            (json!({}), ErrorCode::MissingField),
            (json!({"op": "fly"}), ErrorCode::BadField),
            (json!({"op": "device.list"}), ErrorCode::MissingField),
            (json!({"op": "device.forget", "user": "bob"}), ErrorCode::MissingField),
            (json!({"op": "device.forget", "user": "bob", "dev": "a/b"}), ErrorCode::BadField),
            (json!({"op": "device.list", "user": "a/b"}), ErrorCode::BadField),
            (json!({"op": "send", "to": "bob"}), ErrorCode::MissingField),
            (json!({"op": "send", "to": "bob", "text": "x".repeat(BODY_MAX + 1)}), ErrorCode::BadField),
            (json!({"op": "drain", "transport": "pigeon"}), ErrorCode::BadField),
            (json!({"op": "drain", "v": 2}), ErrorCode::Version),
            (json!({"op": "pause", "transports": "ccs"}), ErrorCode::BadField),
            (json!({"op": "user.erase", "user": "bob", "dry_run": true}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
        let refused = CommandRequest::parse(br#"{"id":"c1","op":"fly"}"#, &Limits::default()).unwrap_err();
        assert_eq!(refused.ref_id().unwrap().as_str(), "c1");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = CommandRequest::parse(&bytes, &Limits::default());
        }
    }
}
