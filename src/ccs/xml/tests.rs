use super::*;
use proptest::prelude::*;

const HEADER: &str = "<stream:stream from=\"gcm.googleapis.com\" id=\"0123456789ABCDEF\" version=\"1.0\" \
     xmlns:stream=\"http://etherx.jabber.org/streams\" xmlns=\"jabber:client\">";
const STREAMS: &str = "http://etherx.jabber.org/streams";
const GCM: &str = "google:mobile:data";

fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, FramingError> {
    let mut framer = Framer::new(4096, 8);
    let mut frames = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        framer.push(&bytes[from..to]);
        from = to;
        while let Some(frame) = framer.next()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn read_whole(text: &str) -> Result<Vec<Frame>, FramingError> {
    read(text.as_bytes(), &[])
}

fn stanza(inner: &str) -> Element {
    match read_whole(&format!("{HEADER}{inner}")).unwrap().remove(1) {
        Frame::Stanza(element) => element,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_split_gives_the_same_frames() {
    let text = format!(
        "<?xml version='1.0'?>\n{HEADER}>  <message id=\"a>b\" type='it&apos;s'><gcm xmlns=\"{GCM}\">\
         {{\"k\":\"&lt;\u{1F600}&#x1F600;<![CDATA[]]]]><![CDATA[> & </gcm>]]>\"}}</gcm></message> \n\
         <!-- -- a <b> --><iq type='result'/><?x y?><presence />{}</stream:stream >tail",
        "<message><data:gcm xmlns:data=\"google:mobile:data\">{}</data:gcm></message>".repeat(3)
    );
    let whole = read_whole(&text).unwrap();
    assert_eq!(whole.len(), 8);
    assert_eq!(whole.last(), Some(&Frame::Close));
    for cut in 0..=text.len() {
        assert_eq!(read(text.as_bytes(), &[cut]).unwrap(), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (0..text.len()).collect();
    assert_eq!(read(text.as_bytes(), &every).unwrap(), whole);
}

#[test]
fn the_declaration_is_optional_on_every_header() {
    for declaration in ["", "<?xml version=\"1.0\"?>", "<?xml version='1.0' encoding='UTF-8'?>\r\n"] {
        let mut framer = Framer::new(4096, 8);
        for _ in 0..2 {
            framer.push(format!("{declaration}{HEADER}<success xmlns='x'/>").as_bytes());
            assert!(matches!(framer.next(), Ok(Some(Frame::Header(_)))));
            assert!(matches!(framer.next(), Ok(Some(Frame::Stanza(_)))));
            assert_eq!(framer.next(), Ok(None));
            framer.restart();
        }
    }
}

#[test]
fn names_are_resolved_by_namespace_whatever_the_prefix() {
    let header = HEADER.replace("stream:", "str:").replace(":stream=", ":str=");
    let frames = read_whole(&format!("{header}<str:features/><s:features xmlns:s='{STREAMS}'/></str:stream>")).unwrap();
    let Frame::Header(open) = &frames[0] else { panic!("{frames:?}") };
    assert!(open.is(STREAMS, "stream"));
    assert_eq!(open.attribute("from"), Some("gcm.googleapis.com"));
    for frame in &frames[1..3] {
        let Frame::Stanza(features) = frame else { panic!("{frame:?}") };
        assert!(features.is(STREAMS, "features"));
    }
    assert!(stanza("<message/>").is("jabber:client", "message"));
    assert!(stanza("<x:message xmlns:x='urn:x' x:id='1' id='2'/>").is("urn:x", "message"));
    assert_eq!(stanza("<x:message xmlns:x='urn:x' x:id='1' id='2'/>").attribute("id"), Some("2"));
}

#[test]
fn all_spellings_of_a_text_are_the_same_text() {
    for spelling in [
        "{\"a\":\"<&\"}".replace('&', "&amp;").replace('<', "&lt;"),
        "{&quot;a&quot;:&quot;&lt;&amp;&quot;}".to_owned(),
        "{&#34;a&#x22;:\"&#60;&#38;\"}".to_owned(),
        "<![CDATA[{\"a\":\"<&\"}]]>".to_owned(),
        "{\"a\"<![CDATA[:\"<]]>&amp;<!-- no --><![CDATA[\"]]>}".to_owned(),
    ] {
        assert_eq!(stanza(&format!("<m>{spelling}</m>")).text(), "{\"a\":\"<&\"}", "{spelling}");
    }
}

#[test]
fn a_thousand_stanzas_come_in_one_read() {
    let frames = read_whole(&format!("{HEADER}{}", "<message id='x'><gcm>{}</gcm></message>".repeat(1000))).unwrap();
    assert_eq!(frames.len(), 1001);
}

#[test]
fn a_stanza_over_a_limit_is_dropped_and_the_stream_goes_on() {
    let big = format!("<message><gcm>{}</gcm></message>", "x".repeat(5000));
    let deep = format!("<message>{}{}</message>", "<a>".repeat(8), "</a>".repeat(8));
    let text = format!("{HEADER}{big}<iq/>{deep}<iq/><!-- {} --><iq/>", "y".repeat(5000));
    for cuts in [vec![], (0..text.len()).collect::<Vec<_>>()] {
        let frames = read(text.as_bytes(), &cuts).unwrap();
        assert_eq!(frames.len(), 6, "{frames:?}");
        assert_eq!(frames[1], Frame::Dropped(Limit::Bytes(4096)));
        assert_eq!(frames[3], Frame::Dropped(Limit::Depth(8)));
        assert!([2, 4, 5].iter().all(|&i| matches!(frames[i], Frame::Stanza(_))));
    }
}

#[test]
fn a_stanza_without_end_takes_no_memory() {
    let mut framer = Framer::new(4096, 8);
    framer.push(HEADER.as_bytes());
    framer.next().unwrap();
    framer.push(b"<message>");
    for _ in 0..10_000 {
        framer.push(&[b'x'; 1000]);
        assert_eq!(framer.next(), Ok(None));
        assert!(framer.buffer.capacity() < 64 * 1024);
    }
}

#[test]
fn the_exact_limit_passes() {
    let room = 4096 - "<m></m>".len();
    assert!(matches!(read_whole(&format!("{HEADER}<m>{}</m>", "x".repeat(room))).unwrap()[1], Frame::Stanza(_)));
    assert!(matches!(read_whole(&format!("{HEADER}<m>{}</m>", "x".repeat(room + 1))).unwrap()[1], Frame::Dropped(_)));
}

#[test]
fn what_is_no_xmpp_fails_with_its_kind() {
    let long = format!("<stream:stream a='{}'>", "x".repeat(5000));
    for (text, error) in [
        ("HTTP/1.1 400 Bad Request", FramingError::NotXmpp),
        ("\u{15}\u{3}", FramingError::NotXmpp),
        ("</stream:stream>", FramingError::NotXmpp),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>", FramingError::Dtd),
        ("<< ", FramingError::IllFormed(IllFormed::Tag)),
        ("<a:stream>", FramingError::IllFormed(IllFormed::Namespace)),
        (&long, FramingError::Header(Limit::Bytes(4096))),
    ] {
        assert_eq!(read_whole(text), Err(error), "{text}");
    }
    for (text, error) in [
        ("<!DOCTYPE x>", FramingError::Dtd),
        ("<m><!ENTITY a 'b'></m>", FramingError::Dtd),
        ("<m>&secret;</m>", IllFormed::Reference.into()),
        ("<m>&amp</m>", IllFormed::Reference.into()),
        ("<m>&#0;</m>", IllFormed::Reference.into()),
        ("<m a='1' a='2'/>", IllFormed::Attribute.into()),
        ("<m a='&secret;'/>", IllFormed::Reference.into()),
        ("<m></n>", IllFormed::Tag.into()),
        ("<p:m/>", IllFormed::Namespace.into()),
        ("<m p:a=''/>", IllFormed::Namespace.into()),
        ("</stream>", IllFormed::Tag.into()),
        ("<![CDATA[x]]>", IllFormed::Tag.into()),
    ] {
        assert_eq!(read_whole(&format!("{HEADER}{text}")), Err(error), "{text}");
    }
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend_from_slice(b"<m>\xff</m>");
    assert_eq!(read(&bytes, &[]), Err(FramingError::Utf8));
}

#[test]
fn a_stanza_that_is_damaged_inside_is_read_as_far_as_it_can_be_and_the_stream_goes_on() {
    let lenient = |inner: &[u8]| {
        let mut framer = Framer::new(4096, 8).lenient();
        framer.push(HEADER.as_bytes());
        framer.push(inner);
        framer.push(b"<iq/>");
        assert!(matches!(framer.next(), Ok(Some(Frame::Header(_)))));
        let damaged = framer.next();
        assert!(matches!(framer.next(), Ok(Some(Frame::Stanza(iq))) if iq.name() == "iq"));
        match damaged {
            Ok(Some(Frame::Damaged { element, error })) => (element, error),
            other => panic!("{other:?}"),
        }
    };
    let utf8 = FramingError::Utf8;
    let [reference, attribute, namespace] =
        [IllFormed::Reference, IllFormed::Attribute, IllFormed::Namespace].map(FramingError::from);
    for (inner, error, name, text) in [
        (&b"<m>a\xffb</m>"[..], utf8, "m", "a\u{fffd}b"),
        (b"<m>a&secret;b</m>", reference, "m", "a\u{fffd}b"),
        (b"<m>a&#0;b</m>", reference, "m", "a\u{fffd}b"),
        (b"<m>a & b</m>", reference, "m", "a & b"),
        (b"<m a='&secret;'>b</m>", reference, "m", "b"),
        (b"<m a='1' a='2'>b</m>", attribute, "m", "b"),
        (b"<p:m>b</p:m>", namespace, "m", "b"),
        (b"<m p:a=''>b</m>", namespace, "m", "b"),
    ] {
        let (element, found) = lenient(inner);
        let element = element.unwrap();
        assert_eq!((found, element.name(), element.text()), (error, name, text));
        assert!(!element.text().contains("secret"));
    }
    // What may be the fault of a tag ends the stream as ever.
    for inner in ["<m></n>", "<!DOCTYPE x>", "<![CDATA[x]]>"] {
        let mut framer = Framer::new(4096, 8).lenient();
        framer.push(format!("{HEADER}{inner}").as_bytes());
        framer.next().unwrap();
        assert!(framer.next().is_err(), "{inner}");
    }
}

#[test]
fn an_error_lasts() {
    let mut framer = Framer::new(4096, 8);
    framer.push(b"nonsense");
    assert_eq!(framer.next(), Err(FramingError::NotXmpp));
    framer.push(HEADER.as_bytes());
    assert_eq!(framer.next(), Err(FramingError::NotXmpp));
}

#[test]
fn an_empty_header_opens_and_closes() {
    let frames = read_whole(&HEADER.replace(">", "/>")).unwrap();
    assert!(matches!(frames[..], [Frame::Header(_), Frame::Close]));
}

proptest! {
    #[test]
    fn any_cut_of_any_bytes_gives_the_same(
        bytes in prop::collection::vec(prop::sample::select(b"<>/!?-[]'\"&;= amx\xc3\xa9".to_vec()), 0..200),
        cuts in prop::collection::vec(0usize..400, 0..6),
    ) {
        let mut all = HEADER.as_bytes().to_vec();
        all.extend(&bytes);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(read(&all, &cuts), read(&all, &[]));
    }
}
