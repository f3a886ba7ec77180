//! Opens the v1 side: the two ports, the service account, and the tasks that serve them.

use super::account::{Account, AccountError};
use super::authority::{self, Authority, TOKEN_PATH, Wicket};
use super::config::V1Config;
use super::handle::{OpenConnections, Ports};
use super::listen::{self, Context, Endpoint};
use crate::sim::config::{CertificateConfig, SimConfig};
use crate::sim::handle::Shared;
use crate::sim::shell::{SimError, listen};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// The v1 side, open and not yet served.
pub(in crate::sim) struct Doors {
    pub(in crate::sim) ports: Arc<Ports>,
    account: Arc<Account>,
    authority: Wicket,
    messages: Endpoint,
}

/// Opens the ports and prepares the account.
pub(in crate::sim) async fn open(
    config: &SimConfig,
    v1: &V1Config,
    tls: &Arc<ServerConfig>,
) -> Result<Doors, SimError> {
    v1.faults.check()?;
    let (messages, address) = listen(v1.listen).await?;
    let (authority, authority_address) = listen(v1.authority).await?;
    let token_uri = token_uri(&config.certificate, authority_address);
    let account = {
        let (directory, project) = (config.certificate.directory.clone(), v1.project.clone());
        let token_uri = token_uri.clone();
        // To make a key takes a while.
        let made = spawn_blocking(move || Account::prepare(directory.as_deref(), &project, &token_uri));
        Arc::new(made.await.map_err(|_| AccountError::Stopped)??)
    };
    let ports = Ports {
        base_url: base_url(&config.certificate, address),
        address,
        token_url: token_uri,
        project: v1.project.clone(),
        credentials: account.credentials.clone(),
        credentials_file: account.file.clone(),
        connections: Arc::new(OpenConnections::default()),
    };
    let messages = Endpoint::new(messages, tls, v1.connection, config.limits.max_connections);
    Ok(Doors { ports: Arc::new(ports), account, authority: Wicket::new(authority, tls), messages })
}

/// Makes the service account before the first start, for a client whose configuration names its file. Both ports must be
/// those of that start.
pub(in crate::sim) fn prepare(
    certificate: &CertificateConfig,
    v1: &V1Config,
) -> Result<(String, Option<PathBuf>), AccountError> {
    let token_uri = token_uri(certificate, v1.authority);
    let account = Account::prepare(certificate.directory.as_deref(), &v1.project, &token_uri)?;
    Ok((base_url(certificate, v1.listen), account.file))
}

fn token_uri(certificate: &CertificateConfig, authority: SocketAddr) -> String {
    let scheme = if authority.ip().is_loopback() { "http" } else { "https" };
    format!("{scheme}://{}{TOKEN_PATH}", at(certificate, authority))
}

fn base_url(certificate: &CertificateConfig, messages: SocketAddr) -> String {
    format!("https://{}", at(certificate, messages))
}

impl Doors {
    /// Starts to serve the ports.
    pub(in crate::sim) fn serve(self, shared: &Arc<Shared>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let token_uri = self.ports.token_url.clone();
        let authority = Authority { shared: shared.clone(), account: self.account, token_uri };
        tracing::info!(messages = %self.ports.base_url, tokens = %self.ports.token_url, "HTTP v1 open");
        tasks.spawn(authority::serve(self.authority, authority, stop.clone()));
        let context =
            Context { connections: self.ports.connections.clone(), shared: shared.clone(), stop: stop.clone() };
        tasks.spawn(listen::serve(self.messages, context));
    }
}

/// The host and port that clients use: with a name of the certificate, if the address itself is none.
fn at(certificate: &CertificateConfig, address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let name = certificate.names.first().map_or("localhost", String::as_str);
    format!("{name}:{}", address.port())
}
