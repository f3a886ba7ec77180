//! One XML element as an owned tree, with its names resolved: the prefixes are gone, only namespaces count.

use super::xml::{FramingError, IllFormed};
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, PrefixDeclaration, ResolveResult};
use quick_xml::reader::NsReader;

/// An element, its text and the elements in it. Texts that are broken up by child elements are joined: CCS never mixes
/// the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    namespace: String,
    name: String,
    /// Those without a prefix.
    attributes: Vec<(String, String)>,
    children: Vec<Self>,
    text: String,
}

impl Element {
    /// The namespace URI; empty if the element is in none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name without its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the element `name` of `namespace`.
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The value of an attribute that has no prefix.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The elements directly inside.
    pub fn children(&self) -> &[Self] {
        &self.children
    }

    /// The first element directly inside that is `name` of `namespace`.
    pub fn child(&self, namespace: &str, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    /// The text directly inside, whatever mixture of raw text, references and CDATA it was written in.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn open(reader: &NsReader<&[u8]>, start: &BytesStart<'_>, care: Care) -> Result<Self, FramingError> {
        let (namespace, name) = reader.resolver().resolve_element(start.name());
        let namespace = bound(namespace, care)?;
        let name = name.into_inner().to_owned();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = match attribute {
                Ok(attribute) => attribute,
                Err(_) if care == Care::Lenient => continue,
                Err(_) => return Err(IllFormed::Attribute.into()),
            };
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
            let value = match attribute.normalized_value(XmlVersion::Implicit1_0) {
                Ok(value) => value.into_owned(),
                Err(_) if care == Care::Lenient => UNREADABLE.to_string(),
                Err(_) => return Err(IllFormed::Reference.into()),
            };
            let is_plain = matches!(namespace, ResolveResult::Unbound);
            if bound(namespace, care)?.is_empty() && is_plain {
                attributes.push((name.into_inner().to_owned(), value));
            }
        }
        Ok(Self { namespace, name, attributes, children: Vec::new(), text: String::new() })
    }
}

/// Stands for what cannot be read.
const UNREADABLE: char = char::REPLACEMENT_CHARACTER;

/// What to do with what is not well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// It is an error.
    Strict,
    /// A reference or an attribute that cannot be read is U+FFFD or absent, and a prefix that was not declared stands for no
    /// namespace.
    Lenient,
}

/// The namespace declarations of a stream header: they hold for every stanza of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope(Vec<(Option<String>, String)>);

impl Scope {
    fn of(reader: &NsReader<&[u8]>) -> Self {
        let binding = |(prefix, namespace): (PrefixDeclaration<'_>, Namespace<'_>)| match prefix {
            PrefixDeclaration::Default => (None, namespace.into_inner().to_owned()),
            PrefixDeclaration::Named(name) => (Some(name.to_owned()), namespace.into_inner().to_owned()),
        };
        Self(reader.resolver().bindings().map(binding).collect())
    }

    fn declare(&self, reader: &mut NsReader<&[u8]>) -> Result<(), IllFormed> {
        for (prefix, namespace) in &self.0 {
            let prefix = prefix.as_deref().map_or(PrefixDeclaration::Default, PrefixDeclaration::Named);
            reader.resolver_mut().add(prefix, Namespace(namespace)).map_err(|_| IllFormed::Namespace)?;
        }
        Ok(())
    }
}

/// Parses the open tag of a stream. Gives its scope and its full name, which the close tag has to repeat.
pub(super) fn parse_header(text: &str) -> Result<(Element, Scope, String), FramingError> {
    let mut reader = NsReader::from_str(text);
    match reader.read_event().map_err(ill_formed)? {
        Event::Start(start) | Event::Empty(start) => Ok((
            Element::open(&reader, &start, Care::Strict)?,
            Scope::of(&reader),
            start.name().into_inner().to_owned(),
        )),
        _ => Err(IllFormed::Tag.into()),
    }
}

/// Parses one whole stanza inside `scope`.
pub(super) fn parse_stanza(text: &str, scope: &Scope, care: Care) -> Result<Element, FramingError> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().allow_dangling_amp = care == Care::Lenient;
    scope.declare(&mut reader)?;
    let mut open: Vec<Element> = Vec::new();
    loop {
        let closed = match reader.read_event().map_err(ill_formed)? {
            Event::Start(start) => {
                open.push(Element::open(&reader, &start, care)?);
                continue;
            }
            Event::Empty(start) => Some(Element::open(&reader, &start, care)?),
            Event::End(_) => open.pop(),
            Event::Text(text) => {
                append(&mut open, &text.xml10_content());
                continue;
            }
            Event::CData(text) => {
                append(&mut open, &text.xml10_content());
                continue;
            }
            Event::GeneralRef(reference) => {
                append_reference(&mut open, &reference, care)?;
                continue;
            }
            Event::Comment(_) | Event::PI(_) => continue,
            Event::Decl(_) => return Err(IllFormed::Tag.into()),
            Event::DocType(_) => return Err(FramingError::Dtd),
            Event::Eof => return Err(IllFormed::Tag.into()),
        };
        let element = closed.ok_or(IllFormed::Tag)?;
        match open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => return Ok(element),
        }
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Without a DTD only the five entities of XML itself and numeric references exist (RFC 6120, 11.1).
fn append_reference(open: &mut [Element], reference: &BytesRef<'_>, care: Care) -> Result<(), IllFormed> {
    match (reference.resolve_char_ref(), resolve_xml_entity(reference)) {
        (Ok(Some(character)), _) => append(open, character.encode_utf8(&mut [0; 4])),
        (Ok(None), Some(text)) => append(open, text),
        _ if care == Care::Lenient => append(open, UNREADABLE.encode_utf8(&mut [0; 4])),
        _ => return Err(IllFormed::Reference),
    }
    Ok(())
}

fn bound(resolved: ResolveResult<'_>, care: Care) -> Result<String, FramingError> {
    match resolved {
        ResolveResult::Bound(namespace) => Ok(namespace.into_inner().to_owned()),
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Unknown(_) if care == Care::Lenient => Ok(String::new()),
        ResolveResult::Unknown(_) => Err(IllFormed::Namespace.into()),
    }
}

/// Keeps the kind and drops the words: quick-xml's errors quote the input, which may hold a token.
fn ill_formed(error: quick_xml::Error) -> FramingError {
    use quick_xml::Error;
    match error {
        Error::Namespace(_) => IllFormed::Namespace,
        Error::InvalidAttr(_) => IllFormed::Attribute,
        Error::Escape(_) | Error::IllFormed(quick_xml::errors::IllFormedError::UnclosedReference) => {
            IllFormed::Reference
        }
        Error::Io(_) | Error::Syntax(_) | Error::IllFormed(_) | Error::Encoding(_) => IllFormed::Tag,
    }
    .into()
}
