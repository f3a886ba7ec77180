//! Sockets, TLS and timers around the connections.

use super::cert::{CertificateError, Identity};
use super::config::{CertificateConfig, SimConfig};
use super::control;
use super::event::ConnectionId;
use super::fault::FaultError;
use super::handle::{Shared, SimHandle};
use super::server::{Connection, End};
use super::v1::fault::V1FaultError;
use super::v1::{self, AccountError, V1Config};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Bytes read at once at most.
const READ_BYTES: usize = 64 << 10;

/// Bytes that wait to be written before nothing more is read.
const MAX_UNSENT: usize = 1 << 20;

/// For the last bytes of a connection to be written.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// For all connections to end when the simulator stops.
const STOP_TIME: Duration = Duration::from_secs(3);

/// For the listener to recover, for example from having no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The simulator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The plan of faults cannot be carried out.
    #[error("faults: {0}")]
    Faults(#[from] FaultError),
    /// The certificate cannot be had.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The plan of faults of the v1 side cannot be carried out.
    #[error("faults of v1: {0}")]
    V1Faults(#[from] V1FaultError),
    /// The service account of the v1 side cannot be had.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What a client of a simulator has to be told, before the simulator runs.
#[derive(Debug)]
pub struct Prepared {
    /// The API of FCM HTTP v1.
    pub base_url: String,
    /// The service account, if there is a folder for it.
    pub credentials_file: Option<PathBuf>,
}

/// Makes the certificate authority and the service account that a simulator with this configuration will use.
///
/// # Errors
/// When they cannot be made or written.
pub fn prepare(certificate: &CertificateConfig, v1: &V1Config) -> Result<Prepared, SimError> {
    Identity::prepare(certificate)?;
    let (base_url, credentials_file) = v1::prepare(certificate, v1)?;
    Ok(Prepared { base_url, credentials_file })
}

/// Runs a simulator until `stop`. `ready` gets its handle once both ports are open.
///
/// # Errors
/// When the configuration cannot be used; nothing is left running then.
pub async fn run(
    config: SimConfig,
    ready: oneshot::Sender<SimHandle>,
    stop: CancellationToken,
) -> Result<(), SimError> {
    config.faults.check()?;
    let identity = Identity::prepare(&config.certificate)?;
    let (listener, address) = listen(config.listen).await?;
    let control = match config.control {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let v1 = match &config.v1 {
        Some(v1) => Some(v1::open(&config, v1, &identity.tls).await?),
        None => None,
    };
    let shared = Arc::new(Shared::new(&config));
    let handle = SimHandle {
        shared: shared.clone(),
        address,
        control: control.as_ref().map(|(_, address)| *address),
        ca_pem: identity.ca_pem.into(),
        v1: v1.as_ref().map(|listeners| listeners.ports.clone()),
    };
    let mut tasks = JoinSet::new();
    if let Some(listeners) = v1 {
        listeners.serve(&shared, &mut tasks, &stop);
    }
    if let Some((listener, address)) = control {
        tracing::info!(%address, "control port open");
        tasks.spawn(control::serve(listener, handle.clone(), stop.clone()));
    }
    tasks.spawn(keep_time(shared.clone(), stop.clone()));
    tracing::info!(%address, "simulator ready");
    // It is not an error if nobody wants the handle.
    let _ = ready.send(handle.clone());
    accept(&listener, &TlsAcceptor::from(identity.tls), &shared, config.limits.max_connections, &mut tasks, &stop)
        .await;
    drop(listener);
    handle.close(None);
    let ended = timeout(STOP_TIME, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::info!(tasks = tasks.len(), "connections did not end in time");
        tasks.shutdown().await;
    }
    let stats = shared.with(|service, _| service.stats());
    tracing::info!(
        messages = stats.messages,
        delivered = stats.delivered,
        upstream = stats.upstream.sent,
        "simulator ended"
    );
    Ok(())
}

pub(super) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SimError> {
    let open = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    open.await.map_err(|source| SimError::Listen { address, source })
}

async fn accept(
    listener: &TcpListener,
    tls: &TlsAcceptor,
    shared: &Arc<Shared>,
    max_connections: usize,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let (shared, tls) = (shared.clone(), tls.clone());
                    tasks.spawn(connection(shared, tls, socket, max_connections));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Lets the devices' deadlines happen, whether a client is connected or not.
async fn keep_time(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let due = shared.with(|service, now| {
            service.tick(now);
            service.next_due()
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.deadline_changed.notified() => {}
            () = until(&shared, due) => {}
        }
    }
}

async fn until(shared: &Shared, due: Option<u64>) {
    match due {
        Some(due) => sleep_until(shared.instant(due)).await,
        None => std::future::pending().await,
    }
}

async fn connection(shared: Arc<Shared>, tls: TlsAcceptor, socket: TcpStream, max: usize) {
    // Answers are small, and each waits for a client's next message.
    let _ = socket.set_nodelay(true);
    let patience = Duration::from_millis(shared.profile.wire.login_ms);
    let stream = match timeout(patience, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%error, "TLS handshake failed"),
        Err(_) => return tracing::info!("TLS handshake took too long"),
    };
    let Some((id, waker, core)) = shared.connect(max) else {
        return tracing::info!(max, "connection refused: the limit is reached");
    };
    tracing::info!(connection = id.0, "client connected");
    let guest = Guest { shared, id };
    let (reader, writer) = tokio::io::split(stream);
    let mut wire = Wire { reader, writer, incoming: BytesMut::with_capacity(READ_BYTES), unsent: VecDeque::new() };
    let end = drive(core, &guest.shared, &waker, &mut wire).await;
    wire.finish(end).await;
    tracing::info!(connection = id.0, how = ?end, "client gone");
}

/// A place in the service, given back whatever becomes of the task.
struct Guest {
    shared: Arc<Shared>,
    id: ConnectionId,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

/// Moves bytes until the connection ends; `None` if the client's side was gone first.
async fn drive(mut core: Connection, shared: &Shared, waker: &Notify, wire: &mut Wire) -> Option<End> {
    loop {
        let due = shared.with(|service, now| {
            core.serve(service, &shared.profile, now);
            core.deadline(service, now)
        });
        while let Some(chunk) = core.poll_write() {
            wire.unsent.push_back(chunk);
        }
        if let Some(end) = core.end() {
            return Some(end);
        }
        let reading = core.wants_read() && wire.unsent.iter().map(Bytes::len).sum::<usize>() < MAX_UNSENT;
        let Wire { reader, writer, incoming, unsent } = &mut *wire;
        // Both sides at once: a client that writes much before it reads must not lock us both up.
        tokio::select! {
            biased;
            written = write(writer, unsent), if !unsent.is_empty() => written.ok()?,
            read = reader.read_buf(incoming), if reading => {
                if read.ok()? == 0 {
                    return None;
                }
                core.receive(incoming, &shared.profile);
                incoming.clear();
            }
            () = waker.notified() => {}
            () = until(shared, due) => {}
        }
    }
}

/// The socket and what waits for it.
struct Wire {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    incoming: BytesMut,
    unsent: VecDeque<Bytes>,
}

impl Wire {
    async fn finish(mut self, end: Option<End>) {
        if end == Some(End::Close) {
            let _ = timeout(CLOSE_TIME, self.close()).await;
        } else if end == Some(End::Reset) {
            let _ = self.reader.unsplit(self.writer).get_ref().0.set_zero_linger();
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        write(&mut self.writer, &mut self.unsent).await?;
        self.writer.shutdown().await?;
        // Bytes left unread would make the kernel reset the connection, and the client lose what was just written.
        while self.reader.read_buf(&mut self.incoming).await? > 0 {
            self.incoming.clear();
        }
        Ok(())
    }
}

/// Writes all chunks, each flushed by itself. Cancel-safe: what is written is gone from `unsent`.
async fn write(writer: &mut WriteHalf<TlsStream<TcpStream>>, unsent: &mut VecDeque<Bytes>) -> io::Result<()> {
    while let Some(chunk) = unsent.front_mut() {
        while chunk.has_remaining() {
            writer.write_buf(chunk).await?;
        }
        writer.flush().await?;
        unsent.pop_front();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
