//! Addresses to listen on, as people write them.

use serde::{Deserialize, Deserializer, de};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What an address has to be.
const WANTED: &str = "wants an address with a port, such as \"127.0.0.1:2883\", or a port alone, for this machine only";

/// Reads an IP address with a port, `localhost` with a port, or a port alone, which is one on 127.0.0.1.
///
/// # Errors
/// What would be right. The text itself is not repeated.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let on_loopback = |port: &str| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?));
    let address = text.parse().ok().or_else(|| on_loopback(text.strip_prefix("localhost:").unwrap_or(text)));
    address.ok_or_else(|| WANTED.to_owned())
}

/// An address in the configuration.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_port_alone_is_one_on_loopback() {
        for (text, read) in [
            ("2883", "127.0.0.1:2883"),
            ("localhost:2883", "127.0.0.1:2883"),
            ("0.0.0.0:1883", "0.0.0.0:1883"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), read);
        }
        for wrong in ["", "here", "127.0.0.1", ":2883", "70000", "localhost"] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("127.0.0.1:2883"), "{wrong}: {error}");
        }
    }
}
