//! What commands print. A reader that goes away early (`| head`) is no error: the rest is for nobody, and is dropped.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Prints `text` and a line end to standard output.
///
/// # Errors
/// When it cannot be written although somebody reads, such as to a full disk.
pub fn line(text: impl Display) -> io::Result<()> {
    write(&mut io::stdout().lock(), text)
}

/// Prints `text` and a line end to standard error. Where that fails, there is nobody to be told.
pub fn note(text: impl Display) {
    let _ = write(&mut io::stderr().lock(), text);
}

fn write(output: &mut impl Write, text: impl Display) -> io::Result<()> {
    match writeln!(output, "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
