//! The simulator of the push service as a process of its own, with the executable of the bridge.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

pub(crate) struct PushService {
    child: Child,
    /// It would end if it could not write to it.
    _stdout: BufReader<ChildStdout>,
    /// Where it speaks CCS.
    pub(crate) ccs: SocketAddr,
    /// Where it tells what the phones got.
    pub(crate) control: SocketAddr,
    /// The authority of its certificate.
    pub(crate) ca: PathBuf,
}

impl PushService {
    /// Returns when it listens. Its certificates lie in `folder`.
    pub(crate) fn start(executable: &Path, folder: &Path) -> Result<Self> {
        let tls = folder.join("tls");
        let mut command = Command::new(executable);
        command.args(["sim", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--log", "error"]);
        command.arg("--tls-dir").arg(&tls).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{} cannot be run", executable.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("its standard output is a pipe")?);
        let ccs = address(&mut stdout, "ccs ")?;
        let control = address(&mut stdout, "control ")?;
        Ok(Self { child, _stdout: stdout, ccs, control, ca: tls.join("ca.pem") })
    }

    /// Its process id.
    pub(crate) fn process(&self) -> String {
        self.child.id().to_string()
    }
}

/// SIGKILL.
impl Drop for PushService {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What stands behind the word at the start of the next line that it prints.
fn address(stdout: &mut impl BufRead, word: &str) -> Result<SocketAddr> {
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let address =
        line.trim().strip_prefix(word).with_context(|| format!("the simulator says {line:?}, not {word:?}"))?;
    address.parse().with_context(|| format!("{address} is no address"))
}
