//! Framing: cuts a stream of bytes into the stream header, whole stanzas and the close tag.
//!
//! The scanner looks at each byte once, whatever the reads were cut like, and knows only as much of XML as it takes to
//! find where a stanza ends; quick-xml then parses the whole stanza.
//!
//! ```text
//!            header         stanza          stanza         close tag
//!   Prolog ─────────► Open ────────► Open ────────► Open ───────────► Closed
//!      ▲                                                                │
//!      └──────────────────────────── restart() ─────────────────────────┘ (after <success/>, from Open as well)
//! ```

pub use super::element::Element;
use super::element::{Care, Scope, parse_header, parse_stanza};
use bytes::{Buf, BytesMut};

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The open tag of the stream, with its attributes.
    Header(Element),
    /// One whole stanza.
    Stanza(Element),
    /// A stanza went over a limit and was thrown away while it came in; the stream goes on behind it. Closing the
    /// stream instead would make the peer send the same stanza again on the next one, for ever.
    Dropped(Limit),
    /// A stanza that is not well-formed inside, where the framer is lenient: it is known where it ends.
    Damaged {
        /// What can be read of it, with U+FFFD for what cannot.
        element: Option<Element>,
        /// What is wrong with it.
        error: FramingError,
    },
    /// The close tag of the stream. Nothing follows.
    Close,
}

/// The limit that something received went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Bytes of one stanza, or of the stream header.
    #[error("more than {0} bytes")]
    Bytes(usize),
    /// Elements inside each other.
    #[error("more than {0} elements inside each other")]
    Depth(usize),
}

/// Why a stream cannot be read any further. Never quotes the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Bytes that cannot begin an XMPP stream: no TLS, another protocol.
    #[error("not an XMPP stream")]
    NotXmpp,
    /// A document type declaration, which XMPP forbids (RFC 6120, 11.1); it could hold entity declarations.
    #[error("document type declaration")]
    Dtd,
    /// The stanza is not UTF-8, the only encoding of XMPP.
    #[error("not UTF-8")]
    Utf8,
    /// The stream header went over a limit.
    #[error("stream header: {0}")]
    Header(Limit),
    /// Not well-formed.
    #[error("not well-formed: {0}")]
    IllFormed(#[from] IllFormed),
}

impl FramingError {
    /// Whether it can be only within one stanza, of which it is known all the same where it ends.
    fn is_within_a_stanza(self) -> bool {
        use IllFormed::{Attribute, Namespace, Reference};
        matches!(self, Self::Utf8 | Self::IllFormed(Attribute | Reference | Namespace))
    }
}

/// In which way the XML is not well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IllFormed {
    /// A tag, comment or section.
    #[error("tag")]
    Tag,
    /// An attribute.
    #[error("attribute")]
    Attribute,
    /// A reference (`&...;`) that is unknown or has no end.
    #[error("reference")]
    Reference,
    /// A prefix that was not declared, or a forbidden declaration.
    #[error("namespace")]
    Namespace,
}

/// Cuts a stream of bytes into [`Frame`]s.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the bytes in `buffer` were looked at.
    scanned: usize,
    scan: Scan,
    stream: Stream,
    /// Elements that are open inside the stream; 0 between stanzas.
    depth: usize,
    /// Set while the rest of a stanza is thrown away.
    dropping: Option<Limit>,
    max_bytes: usize,
    max_depth: usize,
    lenient: bool,
}

#[derive(Debug)]
enum Stream {
    Failed(FramingError),
    Prolog,
    /// The header was an empty element: the stream ended where it began.
    Empty,
    Open {
        scope: Scope,
        name: String,
    },
    Closed,
}

/// Where the scanner stands inside the markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    Text,
    /// Behind `<`.
    Less,
    /// Inside a start tag; `slash` when the last byte was one.
    StartTag {
        slash: bool,
    },
    /// Inside an attribute value that began with this quote.
    Quoted(u8),
    EndTag,
    /// Inside `<? ?>`; `mark` when the last byte was `?`.
    Instruction {
        mark: bool,
    },
    /// Behind `<!`, with this much of `[CDATA[` matched; a `-` leads to `BangDash`.
    Bang(usize),
    BangDash,
    /// Inside a comment, behind this many `-` (up to 2).
    Comment(u8),
    /// Inside a CDATA section, behind this many `]` (up to 2).
    Cdata(u8),
}

/// What the scanner found to end with a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Nothing,
    /// A byte of text outside all tags.
    Text,
    Start,
    Empty,
    End,
    /// A comment, an instruction or a CDATA section.
    Other,
}

const CDATA: &[u8] = b"[CDATA[";

impl Framer {
    /// A framer at the beginning of a stream. A stanza may have `max_stanza_bytes` bytes and `max_depth` elements
    /// inside each other.
    pub fn new(max_stanza_bytes: usize, max_depth: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            scan: Scan::Text,
            stream: Stream::Prolog,
            depth: 0,
            dropping: None,
            max_bytes: max_stanza_bytes,
            max_depth,
            lenient: false,
        }
    }

    /// The same, and a stanza that is not well-formed inside is a [`Frame::Damaged`] and not the end of the stream. For a peer
    /// that would send the same stanza again on the next one, for ever.
    pub fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// Takes bytes as they were read. Call [`Framer::next`] until it gives `None` before the next `push`: that keeps
    /// the buffer below one stanza and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        if !matches!(self.stream, Stream::Closed | Stream::Failed(_)) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Begins a new stream, as after `<success/>` (RFC 6120, 4.3.3). Bytes not yet read belong to the new one.
    pub fn restart(&mut self) {
        self.scan = Scan::Text;
        self.stream = Stream::Prolog;
        self.depth = 0;
        self.dropping = None;
        self.scanned = 0;
    }

    /// The next piece, or `None` if it takes more bytes.
    ///
    /// # Errors
    /// When the stream cannot be read any further; every later call gives the same error.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at the first None")]
    pub fn next(&mut self) -> Result<Option<Frame>, FramingError> {
        match self.stream {
            Stream::Failed(error) => Err(error),
            Stream::Closed => Ok(None),
            Stream::Empty => Ok(Some(self.close())),
            Stream::Prolog | Stream::Open { .. } => self.scan().inspect_err(|&error| {
                self.buffer.clear();
                self.stream = Stream::Failed(error);
            }),
        }
    }

    fn scan(&mut self) -> Result<Option<Frame>, FramingError> {
        loop {
            self.pass_run()?;
            let Some(&byte) = self.buffer.get(self.scanned) else { return Ok(None) };
            let mark = self.step(byte)?;
            self.scanned += 1;
            if let Some(frame) = self.note(mark, byte)? {
                return Ok(Some(frame));
            }
            self.check_size()?;
        }
    }

    /// Passes over bytes that mean nothing where they stand: most of a stanza is the text in it.
    fn pass_run(&mut self) -> Result<(), FramingError> {
        let end = match self.scan {
            Scan::Text if self.depth > 0 => b'<',
            Scan::Quoted(quote) => quote,
            Scan::EndTag => b'>',
            _ => return Ok(()),
        };
        let rest = &self.buffer[self.scanned..];
        self.scanned += rest.iter().position(|byte| *byte == end).unwrap_or(rest.len());
        self.check_size()
    }

    /// Moves the scanner over one byte.
    fn step(&mut self, byte: u8) -> Result<Mark, FramingError> {
        let (scan, mark) = match (self.scan, byte) {
            (Scan::Text, b'<') => (Scan::Less, Mark::Nothing),
            (Scan::Text, _) => (Scan::Text, Mark::Text),
            (Scan::Less, b'/') => (Scan::EndTag, Mark::Nothing),
            (Scan::Less, b'?') => (Scan::Instruction { mark: false }, Mark::Nothing),
            (Scan::Less, b'!') => (Scan::Bang(0), Mark::Nothing),
            (Scan::Less, b'<' | b'>' | b' ') => return Err(IllFormed::Tag.into()),
            (Scan::Less, _) => (Scan::StartTag { slash: false }, Mark::Nothing),
            (Scan::StartTag { .. }, b'"' | b'\'') => (Scan::Quoted(byte), Mark::Nothing),
            (Scan::StartTag { slash: true }, b'>') => (Scan::Text, Mark::Empty),
            (Scan::StartTag { slash: false }, b'>') => (Scan::Text, Mark::Start),
            (Scan::StartTag { .. }, _) => (Scan::StartTag { slash: byte == b'/' }, Mark::Nothing),
            (Scan::Quoted(quote), _) if byte == quote => (Scan::StartTag { slash: false }, Mark::Nothing),
            (Scan::EndTag, b'>') => (Scan::Text, Mark::End),
            (Scan::Instruction { mark: true }, b'>') => (Scan::Text, Mark::Other),
            (Scan::Instruction { .. }, _) => (Scan::Instruction { mark: byte == b'?' }, Mark::Nothing),
            (Scan::Bang(0), b'-') => (Scan::BangDash, Mark::Nothing),
            (Scan::Bang(matched), _) if CDATA[matched] == byte && self.depth > 0 => {
                if matched + 1 == CDATA.len() {
                    (Scan::Cdata(0), Mark::Nothing)
                } else {
                    (Scan::Bang(matched + 1), Mark::Nothing)
                }
            }
            // `<!DOCTYPE`, `<!ENTITY`. What else is left is nonsense, CDATA between stanzas as well.
            (Scan::Bang(0), b'A'..=b'Z') => return Err(FramingError::Dtd),
            (Scan::Bang(_), _) => return Err(IllFormed::Tag.into()),
            (Scan::BangDash, b'-') => (Scan::Comment(0), Mark::Nothing),
            (Scan::BangDash, _) => return Err(IllFormed::Tag.into()),
            (Scan::Comment(2), b'>') => (Scan::Text, Mark::Other),
            (Scan::Comment(dashes), b'-') => (Scan::Comment(dashes.saturating_add(1).min(2)), Mark::Nothing),
            (Scan::Comment(_), _) => (Scan::Comment(0), Mark::Nothing),
            (Scan::Cdata(2), b'>') => (Scan::Text, Mark::Other),
            (Scan::Cdata(brackets), b']') => (Scan::Cdata(brackets.saturating_add(1).min(2)), Mark::Nothing),
            (Scan::Cdata(_), _) => (Scan::Cdata(0), Mark::Nothing),
            (scan @ (Scan::Quoted(_) | Scan::EndTag), _) => (scan, Mark::Nothing),
        };
        self.scan = scan;
        Ok(mark)
    }

    /// Draws the conclusion from what ended with the byte just scanned.
    fn note(&mut self, mark: Mark, byte: u8) -> Result<Option<Frame>, FramingError> {
        if matches!(self.stream, Stream::Prolog) {
            return self.note_prolog(mark, byte);
        }
        match mark {
            Mark::Nothing => {}
            Mark::Text | Mark::Other => {
                // White space is the keep-alive of CCS; other text comes from peers that close the header tag twice.
                if self.depth == 0 {
                    self.dropping = None;
                    self.discard();
                }
            }
            Mark::Start => {
                self.depth += 1;
                self.check_depth(self.depth);
            }
            Mark::Empty if self.depth == 0 => return self.stanza().map(Some),
            Mark::Empty => self.check_depth(self.depth + 1),
            Mark::End if self.depth == 0 => return self.end_tag().map(Some),
            Mark::End => {
                self.depth -= 1;
                if self.depth == 0 {
                    return self.stanza().map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Before the header: an XML declaration, white space and comments may come.
    fn note_prolog(&mut self, mark: Mark, byte: u8) -> Result<Option<Frame>, FramingError> {
        match mark {
            Mark::Nothing => Ok(None),
            Mark::Other => {
                self.discard();
                Ok(None)
            }
            // A `>` is what some writers add behind a header, here one that a restart has put behind us.
            Mark::Text if byte.is_ascii_whitespace() || byte == b'>' => {
                self.discard();
                Ok(None)
            }
            Mark::Text | Mark::End => Err(FramingError::NotXmpp),
            Mark::Start | Mark::Empty => {
                let (header, scope, name) = parse_header(utf8(&self.buffer[..self.scanned])?)?;
                self.discard();
                self.stream = if mark == Mark::Empty { Stream::Empty } else { Stream::Open { scope, name } };
                Ok(Some(Frame::Header(header)))
            }
        }
    }

    fn stanza(&mut self) -> Result<Frame, FramingError> {
        if let Some(limit) = self.dropping.take().or_else(|| self.oversize()) {
            self.discard();
            return Ok(Frame::Dropped(limit));
        }
        let Stream::Open { scope, .. } = &self.stream else {
            return Err(FramingError::NotXmpp);
        };
        let bytes = &self.buffer[..self.scanned];
        let frame = match utf8(bytes).and_then(|text| parse_stanza(text, scope, Care::Strict)) {
            Ok(element) => Frame::Stanza(element),
            Err(error) if self.lenient && error.is_within_a_stanza() => {
                let element = parse_stanza(&String::from_utf8_lossy(bytes), scope, Care::Lenient).ok();
                Frame::Damaged { element, error }
            }
            Err(error) => return Err(error),
        };
        self.discard();
        Ok(frame)
    }

    fn end_tag(&mut self) -> Result<Frame, FramingError> {
        let tag = utf8(&self.buffer[..self.scanned])?;
        let name = tag.trim_start_matches("</").trim_end_matches('>').trim_end();
        match &self.stream {
            Stream::Open { name: open, .. } if open == name => Ok(self.close()),
            _ => Err(IllFormed::Tag.into()),
        }
    }

    fn close(&mut self) -> Frame {
        self.stream = Stream::Closed;
        self.buffer.clear();
        self.scanned = 0;
        Frame::Close
    }

    fn check_depth(&mut self, depth: usize) {
        if depth > self.max_depth {
            self.dropping.get_or_insert(Limit::Depth(self.max_depth));
        }
    }

    fn oversize(&self) -> Option<Limit> {
        (self.scanned > self.max_bytes).then_some(Limit::Bytes(self.max_bytes))
    }

    /// Keeps the buffer within the limit while a stanza is still coming in.
    fn check_size(&mut self) -> Result<(), FramingError> {
        if self.dropping.is_none() {
            let Some(limit) = self.oversize() else {
                return Ok(());
            };
            if matches!(self.stream, Stream::Prolog) {
                return Err(FramingError::Header(limit));
            }
            self.dropping = Some(limit);
        }
        self.discard();
        Ok(())
    }

    fn discard(&mut self) {
        self.buffer.advance(self.scanned);
        self.scanned = 0;
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, FramingError> {
    std::str::from_utf8(bytes).map_err(|_| FramingError::Utf8)
}

#[cfg(test)]
mod tests;
