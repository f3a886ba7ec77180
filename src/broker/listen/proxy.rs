//! For whom a proxy speaks: the header that it sends before everything else (PROXY protocol, versions 1 and 2).
//!
//! Exactly the header is read and not a byte more, so that the stream can be used afterwards as if it had had none.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a version 1 header begins with.
const V1_FIRST: u8 = b'P';
/// The longest of version 1, with its line end (section 2.1).
const V1_MOST: usize = 107;
/// What a version 2 header begins with.
const V2_FIRST: u8 = b'\r';
/// The fixed part of version 2: signature, command, family and length (section 2.2).
const V2_FIXED: usize = 16;
/// The most of version 2 that comes after: addresses and whatever a proxy likes to add. They fit into 536 bytes by
/// recommendation (section 2.2).
const V2_MOST: usize = 4096;

/// Why a connection has no usable header.
#[derive(Debug, Error)]
pub(super) enum ProxyError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is longer than {V2_MOST} bytes")]
    TooLong,
    #[error("the PROXY header is malformed: {0}")]
    Malformed(proxy_header::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header. `None` means that the proxy speaks for itself, as in health checks.
pub(super) async fn read_header<S>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut header = vec![stream.read_u8().await?];
    match header[0] {
        V1_FIRST => read_v1(stream, &mut header).await?,
        V2_FIRST => read_v2(stream, &mut header).await?,
        _ => return Err(ProxyError::Missing),
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, _length) = ProxyHeader::parse(&header, config).map_err(ProxyError::Malformed)?;
    Ok(parsed.proxied_address().map(|address| address.source))
}

/// Byte by byte, because only the line end says where it ends.
async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S, header: &mut Vec<u8>) -> Result<(), ProxyError> {
    while header.last() != Some(&b'\n') {
        if header.len() == V1_MOST {
            return Err(ProxyError::Missing);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(())
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S, header: &mut Vec<u8>) -> Result<(), ProxyError> {
    header.resize(V2_FIXED, 0);
    stream.read_exact(&mut header[1..]).await?;
    let length = usize::from(u16::from_be_bytes([header[V2_FIXED - 2], header[V2_FIXED - 1]]));
    if length > V2_MOST {
        return Err(ProxyError::TooLong);
    }
    header.resize(V2_FIXED + length, 0);
    stream.read_exact(&mut header[V2_FIXED..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::io::AsyncWriteExt;
    use tokio::runtime::Builder;

    use super::*;

    /// What is read of `bytes` that arrive in pieces, and what is left of them.
    fn read(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(piece);
            let write = async {
                // The reader may have seen enough.
                let _ = near.write_all(bytes).await;
                drop(near);
            };
            let read = async {
                let header = read_header(&mut far).await;
                let mut rest = Vec::new();
                far.read_to_end(&mut rest).await.unwrap();
                (header, rest)
            };
            tokio::join!(write, read).1
        })
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_versions_name_the_source_and_leave_the_rest() {
        for (source, destination) in
            [("192.0.2.7:4000", "192.0.2.1:1883"), ("[2001:db8::7]:4000", "[2001:db8::1]:1883")]
        {
            let (source, destination) = (address(source), address(destination));
            let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            let mut buffer = [0; 200];
            for version in [1, 2] {
                let length = match version {
                    1 => header.encode_to_slice_v1(&mut buffer),
                    _ => header.encode_to_slice_v2(&mut buffer),
                };
                let bytes = [&buffer[..length.unwrap()], b"MQTT"].concat();
                for piece in [1, 7, 500] {
                    let (header, rest) = read(&bytes, piece);
                    assert_eq!(header.unwrap(), Some(source));
                    assert_eq!(rest, b"MQTT");
                }
            }
        }
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00MQTT";
        for bytes in [&b"PROXY UNKNOWN\r\nMQTT"[..], b"PROXY UNKNOWN some thing\r\nMQTT", local] {
            let (header, rest) = read(bytes, 100);
            assert_eq!((header.unwrap(), rest), (None, b"MQTT".to_vec()));
        }
    }

    #[test]
    fn everything_else_is_no_header() {
        let connect = [&[0x10, 12, 0, 4], &b"MQTT"[..], &[4, 2, 0, 0, 0, 0]].concat();
        assert!(matches!(read(&connect, 100).0, Err(ProxyError::Missing)));
        assert!(matches!(read(&[b'P'; 500], 1000).0, Err(ProxyError::Missing)));
        assert!(matches!(read(b"PROXY TCP4 1 2 3 4\r\n", 100).0, Err(ProxyError::Malformed(_))));
        assert!(matches!(read(b"PUT / HTTP/1.1\r\n", 100).0, Err(ProxyError::Malformed(_))));
        assert!(matches!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", 100).0, Err(ProxyError::TooLong)));
        assert!(matches!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04abcd", 100).0, Err(ProxyError::Malformed(_))));
        assert!(matches!(read(b"PROXY TCP4 1", 100).0, Err(ProxyError::Io(_))));
        assert!(matches!(read(b"", 100).0, Err(ProxyError::Io(_))));
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let begin = prop::sample::select(vec![
            &b""[..],
            b"P",
            b"PROXY ",
            b"PROXY TCP4 ",
            b"PROXY UNKNOWN",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00",
        ]);
        (begin, any::<Vec<u8>>()).prop_map(|(begin, rest)| [begin, &rest].concat())
    }

    proptest! {
        #[test]
        fn the_same_under_every_split(bytes in headers(), piece in 1..50usize) {
            let (whole, whole_rest) = read(&bytes, 1 << 20);
            let (split, split_rest) = read(&bytes, piece);
            prop_assert_eq!(format!("{whole:?}"), format!("{split:?}"));
            prop_assert_eq!(whole_rest, split_rest);
        }
    }
}
