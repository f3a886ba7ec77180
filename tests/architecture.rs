//! The dependency rule of `src/lib.rs`, read off the whole syntax tree of every production file.
//!
//! Production code is what `mod` lines lead to from `src/lib.rs` and `src/main.rs`, without what is marked
//! `#[cfg(test)]`, wherever in a file that stands. `use` trees are flattened, `self` and `super` are resolved, and the
//! arguments of macros are read as well.

mod source;

use proc_macro2::{TokenStream, TokenTree};
use source::{parse, src};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree};

/// Which rooms of ours each room may name, and whether it is pure (no tokio, no clock, no random source).
const ROOMS: &[(&str, &[&str], bool)] = &[
    ("chat", &[], true),
    ("secret", &[], true),
    ("ccs", &["secret", "chat::refusal"], true),
    ("fcm", &["secret", "chat::refusal"], true),
    ("ops", &[], false),
    ("config", &["bridge", "broker", "chat", "mqtt", "ops", "secret", "store", "transport"], false),
    ("store", &["chat", "ops"], false),
    ("transport", &["ccs", "chat", "fcm", "ops", "secret"], false),
    ("mqtt", &["chat", "ops", "secret"], false),
    ("broker", &["chat", "mqtt", "ops", "store"], false),
    ("rumqttd", &["broker", "chat", "mqtt"], false),
    ("bridge", &["chat", "store", "mqtt", "transport", "ops"], false),
    ("sim", &["ccs", "fcm", "ops"], false),
];

/// What may name every room, and is named by none.
const TOP: &[&str] = &["app", "cli", "lib", "main"];

/// Paths that a pure room does not touch, by their beginning.
const IMPURE: &[&str] = &["tokio", "rand", "std::net", "std::fs", "std::thread", "std::env", "std::process"];
/// The same, by their end: the type alone is harmless.
const IMPURE_CALLS: &[&str] = &["Instant::now", "SystemTime::now"];

/// What the simulator must not share with the client: everything that decides.
const PRIVATE_TO_THE_CLIENT: &[&str] = &[
    "crate::ccs::session",
    "crate::ccs::login",
    "crate::ccs::refusal",
    "crate::fcm::budget",
    "crate::fcm::health",
    "crate::fcm::judge",
    "crate::fcm::request",
    "crate::fcm::verdict",
    "crate::transport",
];

/// Rooms that know no push service by name, neither in identifiers nor in paths.
const FOR_ANY_SERVICE: &[&str] = &["bridge", "store", "ops"];
/// Push services, as parts of names.
const SERVICES: &[&str] = &["ccs", "fcm", "webpush", "apns"];
/// What stands in a contract with users all the same, by file: words that [`SERVICES`] would forbid.
const IN_CONTRACTS: &[(&str, &[&str])] = &[
    // `ccs_id` of a device's message.
    ("bridge/device_intake.rs", &["ccs_id"]),
];

/// The store's database: who knows it, by the library's name.
const LIBRARY: &str = "rusqlite";
const DATABASE: &str = "store/sqlite";
/// The store's back end, by the name of its folder, and who names it: who chooses it, and the verbs that it does.
const BACK_END: &str = "sqlite";
const NAMES_THE_BACK_END: &[&str] = &[
    "app.rs",
    "store/mod.rs",
    "store/handle.rs",
    "store/handle/calls.rs",
    "store/handle/chat.rs",
    "store/handle/erase.rs",
    "store/handle/group.rs",
    "store/handle/sessions.rs",
];

/// Levels of topics. Where they stand is the grammar's affair, and who may use which topic that of the access table.
const LEVELS: &[&str] = &["self", "others", "_bridge"];
const GRAMMAR: &[&str] = &["chat/topic.rs", "chat/topic/group_topic.rs", "chat/access.rs"];
/// Who names such a level all the same: names of users that would read like one.
const NAMES_LEVELS: &[&str] = &["chat/id.rs", "broker/identity/name.rs"];

/// A production file and every path it names, in full: `crate::chat::id::Owner`, `tokio::sync::mpsc`.
struct Source {
    file: PathBuf,
    paths: BTreeSet<String>,
    /// Every identifier.
    words: BTreeSet<String>,
    /// Every text.
    texts: BTreeSet<String>,
}

impl Source {
    /// The first part of the file's place below `src`: its room.
    fn room(&self) -> String {
        let place = self.file.strip_prefix(src()).expect("a file below src");
        let first = place.iter().next().expect("a file has a name").to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }
}

/// Whether `path` is `beginning` or something inside it.
fn is_in(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What is compiled into the program, file by file.
static PRODUCTION: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut found = Vec::new();
    for root in ["lib.rs", "main.rs"] {
        read(&src().join(root), Vec::new(), &mut found);
    }
    found
});

/// Reads `file`, which is the module `module`, and the files of its modules.
fn read(file: &Path, module: Vec<String>, found: &mut Vec<Source>) {
    let mut reader = Reader { module, ..Reader::default() };
    reader.visit_file(&parse(file));
    let Reader { paths, words, texts, files, .. } = reader;
    found.push(Source { file: file.to_owned(), paths, words, texts });
    for module in files {
        let below = src().join(module.iter().collect::<PathBuf>());
        let candidates = [below.with_extension("rs"), below.join("mod.rs")];
        let file = candidates.iter().find(|candidate| candidate.exists());
        read(file.unwrap_or_else(|| panic!("no file for the module {}", module.join("::"))), module.clone(), found);
    }
}

/// Collects the paths of one file.
#[derive(Default)]
struct Reader {
    /// Where it is: `["chat", "message"]`.
    module: Vec<String>,
    paths: BTreeSet<String>,
    words: BTreeSet<String>,
    texts: BTreeSet<String>,
    /// Modules that have a file of their own.
    files: Vec<Vec<String>>,
}

impl Reader {
    /// Keeps a path, with `self` and `super` resolved.
    fn keep(&mut self, segments: &[String]) {
        let mut rest = segments;
        let mut place = self.module.clone();
        let mut relative = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "self" if rest.len() > 1 => {}
                "super" => {
                    place.pop();
                }
                "crate" => place.clear(),
                _ => break,
            }
            relative = true;
            rest = &rest[1..];
        }
        if relative {
            place.insert(0, "crate".to_owned());
            place.extend_from_slice(rest);
            self.paths.insert(place.join("::"));
        } else if rest.len() > 1 {
            self.paths.insert(rest.join("::"));
        }
    }

    fn flatten(&mut self, tree: &UseTree, before: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.flatten(&path.tree, before);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|item| self.flatten(item, before)),
            UseTree::Name(name) => self.keep_used(before, &name.ident.to_string()),
            UseTree::Rename(rename) => self.keep_used(before, &rename.ident.to_string()),
            UseTree::Glob(_) => self.keep_used(before, "*"),
        }
    }

    fn keep_used(&mut self, before: &[String], last: &str) {
        let mut whole = before.to_vec();
        if last != "self" {
            whole.push(last.to_owned());
        }
        match whole.as_slice() {
            // `use tokio;` names a crate by itself.
            [single] if single != "crate" => drop(self.paths.insert(single.clone())),
            _ => self.keep(&whole),
        }
    }

    /// Paths in the arguments of a macro, which have no syntax of their own.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    self.words.insert(ident.to_string());
                    if colons != 2 {
                        self.keep(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.keep(&std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.scan(group.stream()),
                        TokenTree::Literal(literal) => {
                            if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                                self.texts.insert(text.value());
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        self.keep(&path);
    }
}

/// Whether something is compiled for tests only.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(x) => &x.attrs,
        Item::Enum(x) => &x.attrs,
        Item::ExternCrate(x) => &x.attrs,
        Item::Fn(x) => &x.attrs,
        Item::Impl(x) => &x.attrs,
        Item::Macro(x) => &x.attrs,
        Item::Mod(x) => &x.attrs,
        Item::Static(x) => &x.attrs,
        Item::Struct(x) => &x.attrs,
        Item::Trait(x) => &x.attrs,
        Item::Type(x) => &x.attrs,
        Item::Use(x) => &x.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        if module.content.is_none() {
            self.files.push(self.module.clone());
        }
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.flatten(&item.tree, &mut Vec::new());
        visit::visit_item_use(self, item);
    }

    // `pub(crate)` and `pub(in ..)` name who may see something, not what is used.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.keep(&segments);
        visit::visit_path(self, path);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.texts.insert(text.value());
    }

    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        self.words.insert(ident.to_string());
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        self.scan(invoked.tokens.clone());
        visit::visit_macro(self, invoked);
    }
}

/// Paths of `source` that its room may not name.
fn foreign(source: &Source) -> Vec<&String> {
    let room = source.room();
    let Some((_, allowed, _)) = ROOMS.iter().find(|(name, ..)| *name == room) else { return Vec::new() };
    let may = |path: &str| {
        let Some(rest) = path.strip_prefix("crate::") else { return path != "crate" };
        is_in(rest, &room) || allowed.iter().any(|other| is_in(rest, other))
    };
    source.paths.iter().filter(|path| !may(path)).collect()
}

/// Paths of `source` that lead to a runtime, a clock, chance, or the machine.
fn impure(source: &Source) -> Vec<&String> {
    let ends_in = |path: &str, end: &&str| path == *end || path.ends_with(&format!("::{end}"));
    let wrong = |path: &str| {
        IMPURE.iter().any(|beginning| is_in(path, beginning)) || IMPURE_CALLS.iter().any(|end| ends_in(path, end))
    };
    source.paths.iter().filter(|path| wrong(path)).collect()
}

/// Words of `source` that name a push service and are in no contract.
fn services(source: &Source) -> Vec<&String> {
    let place = source.file.strip_prefix(src()).expect("a file below src");
    let contract = IN_CONTRACTS.iter().find(|(file, _)| place == Path::new(file)).map_or(&[][..], |(_, words)| words);
    let names = |word: &str| SERVICES.iter().any(|service| word.to_lowercase().contains(service));
    source.words.iter().filter(|word| names(word) && !contract.contains(&word.as_str())).collect()
}

/// Texts of `source` that are topics, or levels of them. What has a space is written for people.
fn topics(source: &Source) -> Vec<&String> {
    let is_topic = |text: &str| !text.contains(' ') && text.split('/').any(|level| LEVELS.contains(&level));
    source.texts.iter().filter(|text| is_topic(text)).collect()
}

/// The word, if `source` has it in a name.
fn word<'a>(source: &'a Source, wanted: &str) -> Vec<&'a String> {
    source.words.get(wanted).into_iter().collect()
}

/// What a file says to everybody: the words of its `pub` signatures and fields. And the names it has of the database.
#[derive(Default)]
struct Offer {
    words: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Offer {
    fn of(file: &syn::File) -> Self {
        let mut offer = Self::default();
        offer.visit_file(file);
        offer
    }

    fn keep(&mut self, visibility: &syn::Visibility, read: impl FnOnce(&mut Reader)) {
        if matches!(visibility, syn::Visibility::Public(_)) {
            let mut reader = Reader::default();
            read(&mut reader);
            self.words.extend(reader.words);
        }
    }

    /// What it offers of the database.
    fn leaks(&self) -> Vec<&String> {
        self.words.iter().filter(|word| *word == LIBRARY || self.names.contains(*word)).collect()
    }
}

impl<'ast> Visit<'ast> for Offer {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut reader = Reader::default();
        reader.visit_item_use(item);
        if reader.words.contains(LIBRARY) {
            self.names.extend(reader.words.iter().cloned());
        }
        self.keep(&item.vis, |offered| offered.visit_item_use(item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.keep(&item.vis, |offered| offered.visit_signature(&item.sig));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.keep(&item.vis, |offered| offered.visit_signature(&item.sig));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.keep(&item.vis, |offered| item.variants.iter().for_each(|variant| offered.visit_variant(variant)));
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.keep(&item.vis, |offered| offered.visit_type(&item.ty));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.keep(&field.vis, |offered| offered.visit_type(&field.ty));
    }
}

fn complain(rule: &str, wrong: Vec<(&Path, Vec<&String>)>) {
    let lines: Vec<String> = wrong
        .into_iter()
        .flat_map(|(file, paths)| paths.into_iter().map(move |path| format!("{}: {path}", file.display())))
        .collect();
    assert!(lines.is_empty(), "{rule}\n{}", lines.join("\n"));
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    complain("against the rule of src/lib.rs:", PRODUCTION.iter().map(|s| (s.file.as_path(), foreign(s))).collect());
}

#[test]
fn pure_rooms_have_no_runtime_no_clock_and_no_chance() {
    let pure = |source: &&Source| ROOMS.iter().any(|(room, _, pure)| *pure && *room == source.room());
    complain("not pure:", PRODUCTION.iter().filter(pure).map(|s| (s.file.as_path(), impure(s))).collect());
}

#[test]
fn no_push_service_is_named_where_it_could_be_any() {
    let rooms = PRODUCTION.iter().filter(|source| FOR_ANY_SERVICE.contains(&source.room().as_str()));
    complain("for any push service:", rooms.map(|s| (s.file.as_path(), services(s))).collect());
    for (file, words) in IN_CONTRACTS {
        let source =
            PRODUCTION.iter().find(|source| source.file == src().join(file)).expect("a file with an exception");
        assert!(words.iter().all(|word| source.words.contains(*word)), "{file} needs no such exception: {words:?}");
    }
}

#[test]
fn a_push_service_is_found_however_it_is_named() {
    for text in [
        "use crate::chat::transport::Transport::Ccs;",
        "fn f(x: Transport) -> bool { x == Transport::Ccs }",
        "struct Fcm;",
        "fn f() { debug!(apns_id = 1); }",
        "fn f(x: X) { x.webpush.len(); }",
    ] {
        assert!(!services(&sample(text)).is_empty(), "not found in {text:?}");
    }
    let harmless = "#[cfg(test)] mod tests { struct Ccs; } // ccs\nconst WAY: &str = \"ccs\";";
    assert!(services(&sample(harmless)).is_empty());
}

#[test]
fn the_database_is_known_to_the_stores_back_end_alone() {
    let (inside, outside): (Vec<_>, Vec<_>) =
        PRODUCTION.iter().partition(|source| source.file.starts_with(src().join(DATABASE)));
    let named = outside.iter().map(|s| (s.file.as_path(), word(s, LIBRARY)));
    complain("the database is named outside of its folder:", named.collect());
    let (choosers, others): (Vec<_>, Vec<_>) =
        outside.into_iter().partition(|source| NAMES_THE_BACK_END.iter().any(|file| source.file == src().join(file)));
    let named = others.iter().map(|s| (s.file.as_path(), word(s, BACK_END)));
    complain("the store has verbs for whatever this needs of its back end:", named.collect());
    assert_eq!(choosers.len(), NAMES_THE_BACK_END.len());
    for source in choosers {
        assert!(!word(source, BACK_END).is_empty(), "{} needs no such exception", source.file.display());
    }
    assert!(inside.iter().any(|source| !word(source, LIBRARY).is_empty()));
    let offers: Vec<_> = inside.iter().map(|source| (source.file.as_path(), Offer::of(&parse(&source.file)))).collect();
    complain("the store offers its database:", offers.iter().map(|(file, offer)| (*file, offer.leaks())).collect());
}

#[test]
fn a_database_is_found_however_it_is_named() {
    for text in [
        "use rusqlite::Connection;",
        "use rusqlite as sql;",
        "extern crate rusqlite;",
        "fn f() -> ::rusqlite::Result<()> { todo!() }",
        "impl rusqlite::ToSql for X {}",
        "fn f() { println!(\"{}\", rusqlite::version()); }",
    ] {
        assert!(!word(&sample(text), LIBRARY).is_empty(), "not found in {text:?}");
    }
    let harmless = "#[cfg(test)] use rusqlite::Connection; // rusqlite\nconst X: &str = \"rusqlite\";";
    assert!(word(&sample(harmless), LIBRARY).is_empty());
}

#[test]
fn an_offer_of_the_database_is_found_wherever_it_is_made() {
    let leaks = |text: &str| !Offer::of(&syn::parse_file(text).expect("the sample is Rust")).leaks().is_empty();
    for text in [
        "use rusqlite::{params, Connection}; pub fn f(conn: &Connection) {}",
        "use rusqlite::Error as Fault; pub struct S { pub fault: Fault }",
        "pub enum E { Sql(#[source] rusqlite::Error) }",
        "impl X { pub fn f(&self) -> rusqlite::Result<()> { Ok(()) } }",
        "pub fn f(read: impl Fn(&rusqlite::Row<'_>)) {}",
        "pub type Result<T> = std::result::Result<T, rusqlite::Error>;",
        "pub use rusqlite::Error;",
    ] {
        assert!(leaks(text), "not found in {text:?}");
    }
    for text in [
        "use rusqlite::Connection; pub struct S { conn: Connection } fn f(conn: Connection) {}",
        "pub(super) fn f() -> rusqlite::Result<()> { Ok(()) }",
        "pub fn f() -> Result<(), X> { rusqlite::version(); Ok(()) }",
    ] {
        assert!(!leaks(text), "found in {text:?}");
    }
}

#[test]
fn the_grammar_of_topics_stands_in_one_file() {
    let is_in = |source: &Source, files: &[&str]| files.iter().any(|file| source.file == src().join(file));
    let others = PRODUCTION.iter().filter(|source| !TOP.contains(&source.room().as_str()));
    let others: Vec<_> = others.filter(|source| !is_in(source, GRAMMAR)).collect();
    let wrong = others.iter().filter(|source| !is_in(source, NAMES_LEVELS));
    complain("a topic outside of the grammar:", wrong.map(|s| (s.file.as_path(), topics(s))).collect());
    for source in others.iter().filter(|source| is_in(source, NAMES_LEVELS)) {
        let only_names = topics(source).iter().all(|text| LEVELS.contains(&text.as_str()));
        assert!(only_names && !topics(source).is_empty(), "{}: {:?}", source.file.display(), topics(source));
    }
}

#[test]
fn a_topic_is_found_however_it_is_written() {
    for text in [
        "fn f(owner: &str) { format!(\"{owner}/others/messages\") }",
        "const X: &str = \"_bridge/status\";",
        "fn f(level: &str) -> bool { level == \"self\" }",
        "fn f(t: &str) -> bool { matches!(t.split('/').nth(1), Some(\"others\")) }",
    ] {
        assert!(!topics(&sample(text)).is_empty(), "not found in {text:?}");
    }
    let harmless =
        "#[cfg(test)] mod tests { const X: &str = \"a/self/x\"; } fn f() { err(\"ask on `self/messages` again\") }";
    assert!(topics(&sample(harmless)).is_empty());
}

#[test]
fn the_simulator_shares_only_the_codec() {
    let private = |path: &&String| PRIVATE_TO_THE_CLIENT.iter().any(|beginning| is_in(path, beginning));
    let wrong = PRODUCTION.iter().filter(|source| source.room() == "sim");
    let wrong = wrong.map(|s| (s.file.as_path(), s.paths.iter().filter(private).collect())).collect();
    complain("the simulator must be able to disagree with the client:", wrong);
}

#[test]
fn every_room_is_in_the_table() {
    for entry in fs::read_dir(src()).expect("src is there").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        assert!(TOP.contains(&&*name) || ROOMS.iter().any(|(room, ..)| *room == name), "src/{name} is in no rule");
    }
}

#[test]
fn all_production_files_are_read() {
    let sources = &*PRODUCTION;
    for (room, ..) in ROOMS {
        assert!(sources.iter().any(|source| source.room() == *room), "nothing of src/{room} was read");
    }
    let paths: usize = sources.iter().map(|source| source.paths.len()).sum();
    assert!(sources.len() > 250 && paths > 5_000, "{} files, {paths} paths", sources.len());
}

/// The paths of `text`, as a file of `src/fcm/data.rs` would name them.
fn sample(text: &str) -> Source {
    let mut reader = Reader { module: vec!["fcm".to_owned(), "data".to_owned()], ..Reader::default() };
    reader.visit_file(&syn::parse_file(text).expect("the sample is Rust"));
    Source { file: src().join("fcm/data.rs"), paths: reader.paths, words: reader.words, texts: reader.texts }
}

#[test]
fn a_forbidden_room_is_found_however_it_is_named() {
    for text in [
        "use crate::store::Store;",
        "use crate::{secret, store};",
        "use crate::{secret::{self, Secret}, bridge as b};",
        "use super::super::store;",
        "#[cfg(test)] mod tests {} use crate::store::Store;",
        "#[cfg(test)] use std::mem; fn f() { crate::store::open() }",
        "fn f(x: &crate::store::Store) {}",
        "fn f() { println!(\"{:?}\", (1, crate::store::LIMIT)); }",
        "mod inner { fn f() { super::super::super::store::open() } }",
        "impl crate::store::Back for X {}",
        "use crate::*;",
        "use crate as all;",
        "use super::super::*;",
    ] {
        assert!(!foreign(&sample(text)).is_empty(), "not found in {text:?}");
    }
    for text in [
        "use crate::secret::Secret;",
        "use super::target::Target; use self::inner::X;",
        "#[cfg(test)] mod tests { use crate::store::Store; }",
        "#[cfg(test)] use crate::store::Store;",
        "// use crate::store::Store;\nconst TEXT: &str = \"crate::store::Store\";",
    ] {
        let source = sample(text);
        assert!(foreign(&source).is_empty(), "{:?} in {text:?}", foreign(&source));
    }
}

#[test]
fn impure_code_is_found_however_it_is_named() {
    for text in [
        "use tokio::sync::mpsc;",
        "use std::{net::IpAddr, mem};",
        "use std::time::Instant; fn f() { Instant::now(); }",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { let x = rand::random::<u8>(); }",
        "fn f() { debug!(at = Instant::now()); }",
    ] {
        assert!(!impure(&sample(text)).is_empty(), "not found in {text:?}");
    }
    let harmless = "use std::time::{Duration, Instant}; fn f(now: Instant) -> Operand { now.operand() }";
    assert!(impure(&sample(harmless)).is_empty());
}
