//! The names of modules and types say what they are by the field's word. A metaphor that was replaced by one does not come
//! back, neither in the program nor in its tests. Comments are not searched.

mod source;

use source::{parse, src};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// The word to use, and the words that stood for it, as parts of names in lower case.
const WORDS: &[(&str, &[&str])] = &[
    ("transport", &["way", "ways", "backdoor", "back_door"]),
    ("the link's state: up or down", &["door", "doors", "front_door"]),
    ("context", &["hall"]),
    ("dispatcher, reports", &["pusher"]),
    ("recipient queue", &["crowd", "order_book", "ready", "line", "lines", "hearing"]),
    ("service back-off", &["brake"]),
    ("announce", &["steward"]),
    ("expiry", &["broom"]),
    ("topic window", &["lane", "lanes"]),
    ("user presence, BAL presence", &["attendance"]),
    ("pool, redial, watermark", &["roster", "slot", "slots"]),
    ("coalesce", &["gather"]),
    ("token source, token refresher; or what it owns", &["wallet", "keeper"]),
    ("acknowledgement reference", &["tag"]),
    ("transaction", &["desk"]),
    ("document reference", &["slip"]),
    ("message log", &["story"]),
    ("harness", &["house", "street", "world", "stage"]),
];

/// Where the words may not stand: folders of `src`.
const FOLDERS: &[&str] = &["bridge", "store", "transport"];

/// A name that was declared, and where.
struct Declared {
    file: PathBuf,
    name: String,
}

/// Collects the modules and types of a file.
struct Reader {
    file: PathBuf,
    found: Vec<Declared>,
}

impl Reader {
    fn keep(&mut self, name: &syn::Ident) {
        self.found.push(Declared { file: self.file.clone(), name: name.to_string() });
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.keep(&item.ident);
        visit::visit_item_mod(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.keep(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.keep(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.keep(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.keep(&item.ident);
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

/// `OrderBook` and `order_book` are `_order_book_`.
fn parts(name: &str) -> String {
    let mut parts = String::from("_");
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            parts.push('_');
        }
        parts.extend(letter.to_lowercase());
    }
    parts.push('_');
    parts
}

/// The word to use instead of what is in a name.
fn better(name: &str) -> Option<&'static str> {
    let parts = parts(name);
    let is_in = |former: &&str| parts.contains(&format!("_{former}_"));
    WORDS.iter().find(|(_, former)| former.iter().any(&is_in)).map(|(word, _)| *word)
}

/// Every name with a word that was replaced.
fn wrong() -> Vec<(Declared, &'static str)> {
    let files = FOLDERS.iter().flat_map(|folder| files(&src().join(folder)));
    let names = files.flat_map(|file| declared(&file));
    names.filter_map(|declared| better(&declared.name).map(|word| (declared, word))).collect()
}

#[test]
fn modules_and_types_are_called_by_the_fields_words() {
    let lines: Vec<String> = wrong()
        .into_iter()
        .map(|(declared, word)| format!("{}: {} (use: {word})", declared.file.display(), declared.name))
        .collect();
    assert!(lines.is_empty(), "names that were given up:\n{}", lines.join("\n"));
}

#[test]
fn a_word_is_found_as_a_part_of_a_name_and_not_of_another_word() {
    for name in ["OrderBook", "order_book", "Line", "LineState", "house", "StoreKeeper", "SendSlots", "Lane"] {
        assert!(better(name).is_some(), "{name}");
    }
    for name in ["Order", "Outline", "Readiness", "TopicWindow", "Always", "Hallmark", "Gateway"] {
        assert!(better(name).is_none(), "{name}");
    }
}

#[test]
fn the_names_of_all_three_folders_are_read() {
    for folder in FOLDERS {
        let names = files(&src().join(folder)).iter().map(|file| declared(file).len()).sum::<usize>();
        assert!(names > 30, "{names} names in {folder}");
    }
}
