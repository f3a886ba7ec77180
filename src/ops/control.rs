//! The control socket: how commands of this machine reach the bridge that runs. It moves lines and knows no command.
//!
//! A client writes one line and gets one or more lines; then the connection ends. Who may connect is decided by the file
//! system (mode 0600) and by the kernel, which says as whom the client runs: as the bridge does, or as root.

use bytes::Bytes;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest request, in bytes with its line end: as long as the largest payload of a client.
pub const REQUEST_MAX: usize = 65_536;
/// Longest line of an answer that a client reads, in bytes.
const ANSWER_MAX: u64 = 1_048_576;
/// Most clients at one time; one more is answered that it is too many.
const CLIENTS_MAX: usize = 16;
/// Lines of an answer that wait for their client.
const ANSWERS: usize = 16;
/// How long a client may take for its request, and for each line of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Only whom the bridge runs as.
const MODE: u32 = 0o600;
/// What a client is told that comes when there are [`CLIENTS_MAX`].
const TOO_MANY: &[u8] =
    b"{\"ok\":false,\"code\":\"RATE_LIMITED\",\"detail\":\"too many commands are given at one time\"}\n";

/// A request, and where its answer goes: line by line, without line ends. Dropping the end of it is the end of the answer.
#[derive(Debug)]
pub struct ControlCall {
    /// The line, without its end.
    pub request: Bytes,
    /// For the lines of the answer.
    pub answers: mpsc::Sender<Bytes>,
}

impl ControlCall {
    /// A request, and the end on which its answer arrives.
    pub fn new(request: Bytes) -> (Self, mpsc::Receiver<Bytes>) {
        let (answers, told) = mpsc::channel(ANSWERS);
        (Self { request, answers }, told)
    }
}

/// Where the socket of the bridge with this store is.
pub fn socket_of(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".control");
    name.into()
}

/// The socket, bound but not yet served. Its file goes with it.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    /// As whom the bridge runs.
    owner: u32,
}

impl ControlServer {
    /// Makes the socket. The caller has the store beside it to itself: a file that is there is of a bridge that was killed.
    ///
    /// # Errors
    /// When the name is too long for a socket (some hundred bytes), or the folder cannot be written.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE))?;
        let owner = fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// Passes requests on until `stop`.
    pub async fn run(self, calls: mpsc::Sender<ControlCall>, stop: CancellationToken) {
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_ended) = clients.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // No file descriptor is left, most likely: not at full speed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !self.is_let_in(&stream) {
                continue;
            }
            if clients.len() >= CLIENTS_MAX {
                // Its buffer takes one line at once.
                let _ = stream.try_write(TOO_MANY);
                continue;
            }
            clients.spawn(serve(stream, calls.clone()));
        }
        clients.shutdown().await;
    }

    /// Whether a client runs as the bridge does, or as root. Between the making of the file and its mode somebody else may
    /// have come.
    fn is_let_in(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| [self.owner, 0].contains(&peer.uid()))
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<ControlCall>) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut request = BufReader::new(read).take(REQUEST_MAX as u64);
    if !matches!(timeout(PATIENCE, request.read_until(b'\n', &mut line)).await, Ok(Ok(_))) || line.pop() != Some(b'\n')
    {
        return;
    }
    let (call, mut answers) = ControlCall::new(line.into());
    if calls.send(call).await.is_err() {
        return;
    }
    let mut read = request.into_inner();
    loop {
        // A client that goes away wants no more of its answer.
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            _ = read.read_u8() => None,
        };
        let Some(answer) = answer else { return };
        let mut line = answer.to_vec();
        line.push(b'\n');
        if !matches!(timeout(PATIENCE, write.write_all(&line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The lines of an answer, as they come.
#[derive(Debug)]
pub struct Answer(BufReader<UnixStream>);

/// Asks the bridge whose socket this is.
///
/// # Errors
/// When none runs there, or it is another user's.
pub async fn ask(path: &Path, request: &[u8]) -> io::Result<Answer> {
    say(UnixStream::connect(path).await?, request).await
}

async fn say(mut stream: UnixStream, request: &[u8]) -> io::Result<Answer> {
    match stream.write_all(&[request, b"\n"].concat()).await {
        // A bridge that has too many clients says so without reading, and what it said can still be read.
        Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Err(error),
        _ => Ok(Answer(BufReader::new(stream))),
    }
}

impl Answer {
    /// The next line, without its end; `None` at the end of the answer.
    ///
    /// # Errors
    /// When the bridge ends in between, or the line is too long.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        (&mut self.0).take(ANSWER_MAX).read_line(&mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        match line.pop() {
            Some('\n') => Ok(Some(line)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Harness {
        dir: tempfile::TempDir,
        stop: CancellationToken,
        calls: mpsc::Receiver<ControlCall>,
        running: tokio::task::JoinHandle<()>,
    }

    impl Harness {
        fn open() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let server = ControlServer::bind(socket_of(&dir.path().join("s.db"))).unwrap();
            let (stop, (sender, calls)) = (CancellationToken::new(), mpsc::channel(1));
            #[expect(clippy::disallowed_methods, reason = "joined in `close`")]
            let running = tokio::spawn(server.run(sender, stop.clone()));
            Self { dir, stop, calls, running }
        }

        fn path(&self) -> PathBuf {
            socket_of(&self.dir.path().join("s.db"))
        }

        async fn close(self) {
            let path = self.path();
            self.stop.cancel();
            self.running.await.unwrap();
            assert!(!path.exists(), "its file goes with it");
        }
    }

    #[tokio::test]
    async fn a_request_is_one_line_and_its_answer_some() {
        let mut harness = Harness::open();
        let mode = fs::metadata(harness.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let mut answer = ask(&harness.path(), br#"{"op":"drain"}"#).await.unwrap();
        let call = harness.calls.recv().await.unwrap();
        assert_eq!(&*call.request, br#"{"op":"drain"}"#);
        for line in ["1", "2"] {
            call.answers.send(line.into()).await.unwrap();
            assert_eq!(answer.next().await.unwrap().as_deref(), Some(line));
        }
        drop(call);
        assert_eq!(answer.next().await.unwrap(), None);
        harness.close().await;
    }

    #[tokio::test]
    async fn one_client_too_many_is_told_so_and_others_go_on() {
        let mut harness = Harness::open();
        let (mut asked, mut held) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS_MAX {
            asked.push(ask(&harness.path(), b"{}").await.unwrap());
            held.push(harness.calls.recv().await.unwrap());
        }
        let told = ask(&harness.path(), b"{}").await.unwrap().next().await.unwrap().unwrap();
        assert!(told.contains("RATE_LIMITED"), "{told}");
        // The bridge has said so and gone before this one speaks.
        let late = UnixStream::connect(harness.path()).await.unwrap();
        late.readable().await.unwrap();
        let told = say(late, b"{}").await.unwrap().next().await.unwrap().unwrap();
        assert!(told.contains("RATE_LIMITED"), "{told}");
        held[3].answers.send("done".into()).await.unwrap();
        assert_eq!(asked[3].next().await.unwrap().as_deref(), Some("done"));
        harness.close().await;
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_or_has_no_end_is_dropped() {
        let mut harness = Harness::open();
        let long = ask(&harness.path(), &vec![b'x'; REQUEST_MAX]).await.unwrap().next().await;
        assert!(!matches!(long, Ok(Some(_))), "{long:?}");
        let mut stream = UnixStream::connect(harness.path()).await.unwrap();
        stream.write_all(b"{").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(harness.calls.try_recv().is_err());
        harness.close().await;
    }

    #[tokio::test]
    async fn the_socket_of_a_bridge_that_was_killed_is_made_anew_and_without_one_nobody_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_of(&dir.path().join("s.db"));
        assert_eq!(ask(&path, b"{}").await.unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "").unwrap();
        drop(ControlServer::bind(path.clone()).unwrap());
        assert!(!path.exists());
    }
}
