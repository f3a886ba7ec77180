//! Documents that clients write into the inboxes of each other, past the bridge, on a broker that is trusted (`chat.direct`).
//! They say themselves who wrote them.

use crate::chat::id::Owner;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Why a document in an inbox is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDirect {
    /// It bears an id of the bridge: it is a copy of the bridge's own, which came back.
    #[error("it has a `sid`")]
    OwnCopy,
    /// Nobody can tell what it says.
    #[error("it is no JSON object")]
    NoObject,
    /// It says not who wrote it.
    #[error("it has no `from` that can be the name of a user")]
    NoWriter,
}

/// Who wrote a document, as it says itself. What the bridge writes there is known by its `sid`; its chat states, which have
/// none, say nothing about a device.
///
/// # Errors
/// When the bridge wrote it, or nobody is named.
pub fn direct_writer(payload: &[u8]) -> Result<Owner, NotDirect> {
    #[derive(Deserialize)]
    struct Stamped {
        sid: Option<IgnoredAny>,
        from: Option<serde_json::Value>,
    }
    // An array would be read as well, field after field.
    if !payload.trim_ascii_start().starts_with(b"{") {
        return Err(NotDirect::NoObject);
    }
    let Stamped { sid, from } = serde_json::from_slice(payload).map_err(|_| NotDirect::NoObject)?;
    if sid.is_some() {
        return Err(NotDirect::OwnCopy);
    }
    let from = from.as_ref().and_then(serde_json::Value::as_str).ok_or(NotDirect::NoWriter)?;
    Owner::new(from).map_err(|_| NotDirect::NoWriter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_in_an_inbox_names_its_writer_or_is_not_taken() {
        use NotDirect::{NoObject, NoWriter, OwnCopy};
        let alice = Owner::new("alice").unwrap();
        for (payload, writer) in [
            (r#"{"id":"m1","from":"alice","body":"hi"}"#, Ok(alice.clone())),
            (r#" {"from":"alice","sid":null}"#, Ok(alice)),
            (r#"{"from":"alice","sid":"06eqbd3gy0001ab2"}"#, Err(OwnCopy)),
            (r#"{"from":"alice","sid":7}"#, Err(OwnCopy)),
            (r#"{"sid":"06eqbd3gy0001ab2"}"#, Err(OwnCopy)),
            (r#"{"body":"hi"}"#, Err(NoWriter)),
            (r#"{"from":null}"#, Err(NoWriter)),
            (r#"{"from":7}"#, Err(NoWriter)),
            (r#"{"from":""}"#, Err(NoWriter)),
            (r#"{"from":"g-1"}"#, Err(NoWriter)),
            (r#"{"from":"_bridge"}"#, Err(NoWriter)),
            (r#"{"from":"a/b"}"#, Err(NoWriter)),
            (r#"[null,"alice"]"#, Err(NoObject)),
            (r#""alice""#, Err(NoObject)),
            ("L", Err(NoObject)),
            ("", Err(NoObject)),
            (r#"{"from":"alice""#, Err(NoObject)),
        ] {
            assert_eq!(direct_writer(payload.as_bytes()), writer, "{payload}");
        }
        assert_eq!(direct_writer(b"{\"from\":\"\xff\"}"), Err(NoObject));
    }
}
