//! Log-ins of chat users with JSON Web Tokens: no hash of a password to wait for, and users need not be made before.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fcm_mqtt_bridge::ops::clock::now_ms;
use ring::hmac;
use serde_json::json;
use std::fs;
use std::path::Path;

/// HS256 takes no shorter one.
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const LIFE_SECONDS: u64 = 24 * 3_600;

/// What goes into a CONNECT.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    /// The one of a user whom the bridge knows by this log-in alone. Without a role a token is a chat user's.
    pub(crate) fn of(user: &str) -> Self {
        let claims = json!({ "sub": user, "exp": now_ms() / 1_000 + LIFE_SECONDS });
        let parts = [json!({ "alg": "HS256", "typ": "JWT" }), claims];
        let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
        Self { user: user.to_owned(), password: format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)) }
    }
}

/// Writes the file for `broker.jwt_secret_file`.
pub(crate) fn write_secret(path: &Path) -> Result<()> {
    Ok(fs::write(path, SECRET)?)
}
