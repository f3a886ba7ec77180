//! From a URL to what is needed to talk to it.

use crate::transport::dial::{Dialer, Security, TlsError};
use http::Uri;
use std::path::Path;
use url::{Host, Url};

/// The TLS protocol names (ALPN) of the two HTTPs that are spoken.
pub(super) const H2: &str = "h2";
const HTTP_1: &str = "http/1.1";

/// What the API speaks; the bridge relies on it (fcm-v1.md 3.6).
pub(super) const API: &[&str] = &[H2];
/// What servers of access tokens speak. One that says nothing about it speaks HTTP/1.1, as those did that knew no other.
pub(super) const TOKENS: &[&str] = &[H2, HTTP_1];

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is no URL of https or http, or has a query, a fragment or a user.
    #[error("is not https://HOST[:PORT][/PATH] (or http:// on this machine)")]
    Form,
    /// Credentials would go there unencrypted.
    #[error("is http://, which is only for this machine (127.0.0.1, [::1], localhost): use https://")]
    Unprotected,
    /// Of the host or of `ca_file`.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

pub(super) struct Address {
    /// How to get there.
    pub(super) dialer: Dialer,
    /// What to ask for, whole.
    pub(super) uri: Uri,
}

impl Address {
    /// `url` with `path` behind it, which the key `named_by` of the configuration says.
    pub(super) fn new(
        url: &str,
        path: &str,
        ca_file: Option<&Path>,
        alpn: &'static [&'static str],
        named_by: &str,
    ) -> Result<Self, AddressError> {
        let parsed = Url::parse(url).map_err(|_| AddressError::Form)?;
        let plain = match parsed.scheme() {
            "https" => false,
            "http" if is_this_machine(&parsed) => true,
            "http" => return Err(AddressError::Unprotected),
            _ => return Err(AddressError::Form),
        };
        let security = if plain { Security::Plain } else { Security::Tls { ca_file, alpn } };
        Self::with(&parsed, path, &security, named_by)
    }

    /// `http://host` with `path` behind it, wherever it is: Google's metadata server, which only a machine of Google's
    /// can reach.
    pub(super) fn metadata(host: &str, path: &str, named_by: &str) -> Result<Self, AddressError> {
        let parsed = Url::parse(&format!("http://{host}")).map_err(|_| AddressError::Form)?;
        Self::with(&parsed, path, &Security::Plain, named_by)
    }

    fn with(url: &Url, path: &str, security: &Security<'_>, named_by: &str) -> Result<Self, AddressError> {
        let extra = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
        let (Some(host), Some(port), false) = (url.host(), url.port_or_known_default(), extra) else {
            return Err(AddressError::Form);
        };
        // Without the brackets that an IPv6 address has in a URL.
        let name = match host {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let dialer = Dialer::new(&name, port, security, named_by)?;
        let text = format!("{}{path}", url.as_str().trim_end_matches('/'));
        Ok(Self { dialer, uri: text.parse().map_err(|_| AddressError::Form)? })
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<String, String> {
        Address::new(url, "/v1", None, API, "key").map(|found| found.uri.to_string()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn credentials_leave_this_machine_only_encrypted() {
        for (url, uri) in [
            ("https://fcm.googleapis.com", "https://fcm.googleapis.com/v1"),
            ("https://proxy.example:8443/fcm/", "https://proxy.example:8443/fcm/v1"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
            ("http://localhost:8080/", "http://localhost:8080/v1"),
            ("http://[::1]:8080", "http://[::1]:8080/v1"),
        ] {
            assert_eq!(address(url).as_deref(), Ok(uri));
        }
        for url in ["http://fcm.googleapis.com", "http://10.0.0.1:80", "http://localhost.example"] {
            assert_eq!(address(url), Err(AddressError::Unprotected.to_string()), "{url}");
        }
        for url in ["", "fcm.googleapis.com", "ftp://x", "https://", "https://x/?q=1", "https://user@x"] {
            assert_eq!(address(url), Err(AddressError::Form.to_string()), "{url}");
        }
    }
}
