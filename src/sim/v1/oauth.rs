//! Whether an assertion (a JWT of the service account, RFC 7523) buys an access token. Pure; the words are Google's.

use super::account::Account;
use super::tokens::Grant;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Longest life of an assertion, in seconds.
const LIFE_MAX_S: i64 = 3_600;

/// How far ahead a client's clock may be, in seconds.
const SKEW_MAX_S: i64 = 60;

/// What a scope must be of to be good for messages.
const SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];

/// RFC 7515 wants no padding; some clients pad all the same, and Google takes both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("Invalid grant_type: {0}")]
    GrantType(String),
    #[error("Missing required parameter: assertion")]
    NoAssertion,
    #[error("Invalid JWT: malformed")]
    Malformed,
    #[error("Invalid grant: account not found")]
    Account,
    #[error("Invalid JWT Signature.")]
    Signature,
    #[error("Invalid JWT: Failed audience check. The right audience is {0}")]
    Audience(String),
    #[error(
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and \
         exp values in the JWT claim."
    )]
    Time,
    #[error("Invalid OAuth scope or ID token audience provided.")]
    Scope,
}

impl Denied {
    /// OAuth's word (RFC 6749, section 5.2).
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::GrantType(_) => "unsupported_grant_type",
            Self::NoAssertion => "invalid_request",
            Self::Scope => "invalid_scope",
            Self::Malformed | Self::Account | Self::Signature | Self::Audience(_) | Self::Time => "invalid_grant",
        }
    }
}

/// What the access token is good for that a form buys, at `now` in Unix seconds.
pub(super) fn check(form: &[u8], account: &Account, token_uri: &str, now: i64) -> Result<Grant, Denied> {
    let field = |wanted: &str| {
        let mut fields = url::form_urlencoded::parse(form);
        fields.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let grant_type = field("grant_type").unwrap_or_default();
    if grant_type != GRANT_TYPE {
        return Err(Denied::GrantType(grant_type.chars().take(100).collect()));
    }
    let assertion = field("assertion").filter(|text| !text.is_empty()).ok_or(Denied::NoAssertion)?;
    let claims = claims(&assertion, account)?;
    let text = |name| claims.get(name).and_then(Value::as_str);
    if text("aud") != Some(token_uri) {
        return Err(Denied::Audience(token_uri.to_owned()));
    }
    let time = |name| claims.get(name).and_then(Value::as_i64).ok_or(Denied::Time);
    let (iat, exp) = (time("iat")?, time("exp")?);
    let in_time =
        exp > now && iat <= now.saturating_add(SKEW_MAX_S) && exp > iat && exp.saturating_sub(iat) <= LIFE_MAX_S;
    if !in_time {
        return Err(Denied::Time);
    }
    let scopes = text("scope").unwrap_or_default();
    if !scopes.split(' ').all(|scope| scope.starts_with("https://")) {
        return Err(Denied::Scope);
    }
    let for_messages = scopes.split(' ').any(|scope| SCOPES.contains(&scope));
    Ok(if for_messages { Grant::Messages } else { Grant::Other })
}

/// The claims of an assertion that the account has signed.
fn claims(assertion: &str, account: &Account) -> Result<Value, Denied> {
    let (signed, signature) = assertion.rsplit_once('.').ok_or(Denied::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Denied::Malformed)?;
    let document = |part: &str| -> Option<Value> { serde_json::from_slice(&BASE64.decode(part).ok()?).ok() };
    let (header, claims) = document(header).zip(document(claims)).ok_or(Denied::Malformed)?;
    if claims.get("iss").and_then(Value::as_str) != Some(&account.email) {
        return Err(Denied::Account);
    }
    let right_key = header.get("kid").is_none_or(|kid| kid.as_str() == Some(&account.key_id));
    let right_algorithm = header.get("alg").and_then(Value::as_str) == Some("RS256");
    let signature = BASE64.decode(signature).map_err(|_| Denied::Malformed)?;
    if right_key && right_algorithm && account.has_signed(signed.as_bytes(), &signature) {
        Ok(claims)
    } else {
        Err(Denied::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::v1::tests::{assertion, folder_with_key};
    use base64::prelude::BASE64_URL_SAFE;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::OnceLock;

    const URI: &str = "http://127.0.0.1:1/token";
    const NOW: i64 = 1_700_000_000;

    fn account() -> &'static Account {
        static ACCOUNT: OnceLock<Account> = OnceLock::new();
        ACCOUNT.get_or_init(|| Account::prepare(Some(folder_with_key().path()), "p", URI).unwrap())
    }

    fn good(account: &Account) -> Value {
        json!({"iss": account.email, "aud": URI, "iat": NOW, "exp": NOW + 3_595, "scope": SCOPES[0], "sub": null})
    }

    fn ask(account: &Account, header: &Value, claims: &Value) -> Result<Grant, Denied> {
        check(&form(&assertion(&account.credentials, header, claims)), account, URI, NOW)
    }

    fn form(assertion: &str) -> Vec<u8> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", GRANT_TYPE).append_pair("assertion", assertion);
        form.finish().into_bytes()
    }

    #[test]
    fn a_good_assertion_buys_a_token_for_its_scope() {
        let account = account();
        let header = json!({"alg": "RS256", "typ": "JWT"});
        assert_eq!(ask(account, &header, &good(account)), Ok(Grant::Messages));
        let with_kid = json!({"alg": "RS256", "kid": account.key_id});
        assert_eq!(ask(account, &with_kid, &good(account)), Ok(Grant::Messages));
        let mut claims = good(account);
        claims["scope"] = json!("https://www.googleapis.com/auth/drive https://www.googleapis.com/auth/cloud-platform");
        assert_eq!(ask(account, &header, &claims), Ok(Grant::Messages));
        claims["scope"] = json!("https://www.googleapis.com/auth/drive");
        assert_eq!(ask(account, &header, &claims), Ok(Grant::Other));
    }

    #[test]
    fn every_wrong_claim_is_told_by_its_own_words() {
        let account = account();
        let header = json!({"alg": "RS256"});
        for (name, value, wanted) in [
            ("iss", json!("other@p"), Denied::Account),
            ("aud", json!("https://oauth2.googleapis.com/token"), Denied::Audience(URI.into())),
            ("exp", json!(NOW), Denied::Time),
            ("exp", json!(NOW + 3_601), Denied::Time),
            ("exp", json!("soon"), Denied::Time),
            ("iat", json!(NOW + SKEW_MAX_S + 1), Denied::Time),
            ("iat", json!(NOW - 7_200), Denied::Time),
            ("scope", json!(""), Denied::Scope),
            ("scope", Value::Null, Denied::Scope),
        ] {
            let mut claims = good(account);
            claims[name] = value;
            assert_eq!(ask(account, &header, &claims), Err(wanted), "{name}");
        }
        for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "RS256", "kid": "other"})] {
            assert_eq!(ask(account, &header, &good(account)), Err(Denied::Signature), "{header}");
        }
    }

    #[test]
    fn what_was_changed_after_signing_is_refused() {
        let account = account();
        let text = assertion(&account.credentials, &json!({"alg": "RS256"}), &good(account));
        let mut claims = good(account);
        claims["scope"] = json!("https://www.googleapis.com/auth/cloud-platform");
        let parts: Vec<&str> = text.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], BASE64_URL_SAFE.encode(claims.to_string()), parts[2]);
        assert_eq!(check(&form(&forged), account, URI, NOW), Err(Denied::Signature));
        assert_eq!(check(b"grant_type=password", account, URI, NOW), Err(Denied::GrantType("password".into())));
        let nothing = format!("grant_type={GRANT_TYPE}");
        assert_eq!(check(nothing.as_bytes(), account, URI, NOW), Err(Denied::NoAssertion));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_else_buys_a_token(cut in 0usize..400, noise in "[A-Za-z0-9._=-]{0,80}") {
            let account = account();
            let text = assertion(&account.credentials, &json!({"alg": "RS256"}), &good(account));
            prop_assert!(check(&form(&text[..cut.min(text.len() - 4)]), account, URI, NOW).is_err());
            prop_assert!(check(&form(&noise), account, URI, NOW).is_err());
        }
    }
}
