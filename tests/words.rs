//! The names of modules, types, variants, fields, functions and constants say what they are by the field's word. A metaphor
//! that was replaced by one does not come back, neither in the program nor in its tests. A word counts as a whole part of a
//! name: `OrderBook` has `book`, `Booking` has not. Comments are not searched, nor local variables, nor the names of tests,
//! which are sentences.

mod source;

use source::{parse, src};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// The folders of `src` that are searched.
const FOLDERS: &[&str] = &["bridge", "broker", "store", "transport"];

/// A row of the table in which the project's words are laid down.
struct Row {
    /// The word to use.
    word: &'static str,
    /// What stood for it, as parts of names in lower case.
    former: &'static [&'static str],
    /// The folders where the former words have no other meaning.
    folders: &'static [&'static str],
}

const fn row(word: &'static str, former: &'static [&'static str], folders: &'static [&'static str]) -> Row {
    Row { word, former, folders }
}

/// `answer`, which stood for reports, is not among the former words: it is also what a push service gives.
const ROWS: &[Row] = &[
    row("transport", &["way", "ways", "backdoor", "back_door"], FOLDERS),
    row("connection up, connection down", &["door", "doors", "front_door"], FOLDERS),
    row("context", &["hall"], FOLDERS),
    row("dispatcher, reports", &["pusher"], FOLDERS),
    row("recipient queue", &["crowd", "crowded", "order_book", "line", "lines", "hearing"], FOLDERS),
    row("loaded; or recipient queue", &["ready"], &["bridge", "broker", "store"]),
    row("service back-off", &["brake"], FOLDERS),
    row("announce, expiry", &["steward", "broom"], FOLDERS),
    row("notify: announce is the bridge's retained status", &["announce", "announced"], &["broker", "store"]),
    row("topic window", &["lane", "lanes"], FOLDERS),
    row("user presence, BAL presence", &["attendance"], FOLDERS),
    row("pool, redial, watermark, coalesce", &["roster", "slot", "slots", "gather"], FOLDERS),
    row("token source, token refresher; or what it owns", &["wallet", "keeper"], FOLDERS),
    row("acknowledgement reference", &["tag"], FOLDERS),
    row("session, queue, window", &["desk", "seat", "seats"], FOLDERS),
    row("claim, permit, order key", &["turn", "turns"], &["broker", "store"]),
    row("subscriber, consumer; or acknowledge; or backlog", &["reader", "readers", "confirm", "parked"], &["broker"]),
    row("authenticator, logins, handshake", &["doorman", "doorstep"], FOLDERS),
    row("validate, decide", &["judge"], FOLDERS),
    row("error: a fault is what a test injects", &["fault"], &["broker", "store"]),
    row("error: a fault is what a test injects", &["faults"], &["broker"]),
    row("rate limit; or pipelining", &["pace"], FOLDERS),
    row("keep-alive", &["pulse"], FOLDERS),
    row("closing", &["farewell"], FOLDERS),
    row("document reference", &["slip"], FOLDERS),
    row("message log", &["story"], FOLDERS),
    row("upstream queue, fault kind, frame watch", &["mailroom", "letter", "mishap", "tap"], FOLDERS),
    row("wake", &["nudge"], &["bridge", "transport"]),
    row("upkeep", &["tend"], &["bridge", "transport"]),
    row("token state", &["supply"], &["bridge", "transport"]),
    row("logged losses", &["remarks"], &["bridge", "transport"]),
    row("harness", &["house", "street", "world", "stage", "staged"], FOLDERS),
];

/// Where a former word has a meaning of its own: the end of a path, and the word.
const OTHER_MEANINGS: &[(&str, &str)] = &[
    // A line of the users file, and the lanes of Argon2.
    ("broker/identity/users.rs", "line"),
    ("broker/identity/users.rs", "lines"),
    ("broker/identity/users.rs", "lanes"),
    // A line of a JSON file.
    ("transport/fcm_v1/token/account.rs", "line"),
    // What takes fields from the bytes of a packet, as `std::io::BufReader` does.
    ("broker/wire/fields.rs", "reader"),
];

/// A name that was declared, and where.
struct Declared {
    file: PathBuf,
    name: String,
}

/// Collects what a file declares.
struct Reader {
    file: PathBuf,
    found: Vec<Declared>,
}

impl Reader {
    fn keep(&mut self, name: &syn::Ident) {
        self.found.push(Declared { file: self.file.clone(), name: name.to_string() });
    }

    fn function(&mut self, signature: &syn::Signature, attributes: &[syn::Attribute]) {
        let is_test =
            |attribute: &syn::Attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "test");
        if !attributes.iter().any(is_test) {
            self.keep(&signature.ident);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.keep(&item.ident);
        visit::visit_item_mod(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.keep(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.keep(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.keep(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.keep(&item.ident);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.keep(&item.ident);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.keep(&item.ident);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.keep(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        field.ident.iter().for_each(|name| self.keep(name));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.attrs);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.attrs);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig, &item.attrs);
        visit::visit_trait_item_fn(self, item);
    }
}

/// All source files below a folder, those of its tests among them.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of src").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

fn declared(file: &Path) -> Vec<Declared> {
    let mut reader = Reader { file: file.to_owned(), found: Vec::new() };
    reader.visit_file(&parse(file));
    reader.found
}

/// `OrderBook`, `order_book` and `ORDER_BOOK` are `_order_book_`.
fn parts(name: &str) -> String {
    let is_constant = !name.chars().any(char::is_lowercase);
    let mut parts = String::from("_");
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 && !is_constant {
            parts.push('_');
        }
        parts.extend(letter.to_lowercase());
    }
    parts.push('_');
    parts
}

/// The row of a former word in a name of this folder of `src`, and the word.
fn former(folder: &str, name: &str) -> Option<(&'static Row, &'static str)> {
    let parts = parts(name);
    let rows = ROWS.iter().filter(|row| row.folders.contains(&folder));
    let mut words = rows.flat_map(|row| row.former.iter().map(move |word| (row, *word)));
    words.find(|(_, word)| parts.contains(&format!("_{word}_")))
}

/// Every name with a word that was replaced, and what to use.
fn wrong(folder: &str) -> Vec<String> {
    let names = files(&src().join(folder)).into_iter().flat_map(|file| declared(&file));
    let complain = |declared: Declared| {
        let (row, word) = former(folder, &declared.name)?;
        let is_meant = |(file, other): &(&str, &str)| declared.file.ends_with(file) && *other == word;
        let line = format!("{}: {} (use: {})", declared.file.display(), declared.name, row.word);
        (!OTHER_MEANINGS.iter().any(is_meant)).then_some(line)
    };
    names.filter_map(complain).collect()
}

#[test]
fn everything_is_called_by_the_fields_words() {
    let lines: Vec<String> = FOLDERS.iter().flat_map(|folder| wrong(folder)).collect();
    assert!(lines.is_empty(), "names that were given up:\n{}", lines.join("\n"));
}

#[test]
fn a_word_is_found_as_a_part_of_a_name_and_not_of_another_word() {
    for name in
        ["OrderBook", "order_book", "ORDER_BOOK", "Line", "LineState", "house", "StoreKeeper", "SendSlots", "Lane"]
    {
        assert!(former("store", name).is_some(), "{name}");
    }
    for name in ["Order", "Outline", "Readiness", "TopicWindow", "Always", "Hallmark", "Gateway", "returned", "ALREADY"]
    {
        assert!(former("store", name).is_none(), "{name}");
    }
    assert!(
        former("broker", "Reader").is_some() && former("store", "Reader").is_none(),
        "each folder has its own words"
    );
}

#[test]
fn what_a_file_declares_is_read() {
    let text = "mod a_mod { const A_CONST: u8 = 0; static A_STATIC: u8 = 0; }
        struct AStruct { a_field: u8 } enum AnEnum { AVariant { of_variant: u8 } } type AType = u8;
        trait ATrait { fn of_trait(); } impl AStruct { fn of_impl() { fn inner() {} } }
        fn a_function() {} #[test] fn a_sentence() {} #[tokio::test] async fn another_sentence() {}";
    let mut reader = Reader { file: PathBuf::new(), found: Vec::new() };
    reader.visit_file(&syn::parse_file(text).unwrap());
    let found: Vec<_> = reader.found.iter().map(|declared| declared.name.as_str()).collect();
    let expected = [
        "a_mod",
        "A_CONST",
        "A_STATIC",
        "AStruct",
        "a_field",
        "AnEnum",
        "AVariant",
        "of_variant",
        "AType",
        "ATrait",
        "of_trait",
        "of_impl",
        "inner",
        "a_function",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_names_of_all_folders_are_read_and_every_other_meaning_is_in_use() {
    for folder in FOLDERS {
        let names = files(&src().join(folder)).iter().map(|file| declared(file).len()).sum::<usize>();
        assert!(names > 300, "{names} names in {folder}");
    }
    for (file, word) in OTHER_MEANINGS {
        let has_word = |declared: &Declared| parts(&declared.name).contains(&format!("_{word}_"));
        assert!(declared(&src().join(file)).iter().any(has_word), "{file}: {word}");
    }
}
