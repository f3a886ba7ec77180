//! What a failed TLS handshake most likely means, for whoever has to mend it.

use std::error::Error;
use tokio_rustls::rustls::{self, CertificateError, InvalidMessage};

/// The words of `error`, and what they come to. `ca_key` is the key of the configuration that says whom to trust.
pub fn handshake(error: &(dyn Error + 'static), ca_key: &str) -> String {
    match cause(error) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            format!("there is no TLS on that port ({error})")
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))) => {
            format!("{error}: it is not among those to trust (`{ca_key}` says whom)")
        }
        _ => error.to_string(),
    }
}

/// What the TLS library says, wherever it is wrapped in.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An I/O error shows what is in it as its own, and not as its source.
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return cause(inner);
    }
    error.source().and_then(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn told(error: rustls::Error) -> String {
        handshake(&io::Error::new(io::ErrorKind::InvalidData, error), "ccs.ca_file")
    }

    #[test]
    fn what_an_operator_can_mend_is_told_with_the_key() {
        let plain = told(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert!(plain.starts_with("there is no TLS on that port (") && plain.contains("InvalidContentType"), "{plain}");
        let stranger = told(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(stranger.contains("UnknownIssuer") && stranger.ends_with("(`ccs.ca_file` says whom)"), "{stranger}");
        let expired = told(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert!(!expired.contains("ca_file"), "{expired}");
        assert_eq!(handshake(&io::Error::from(io::ErrorKind::UnexpectedEof), "k"), "unexpected end of file");
    }
}
