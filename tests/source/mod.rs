//! Reads our own source files for the tests that judge them.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The syntax tree of a file.
pub(crate) fn parse(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).expect("a source file can be read");
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
