//! TLS on the clients' listener: the certificate, from files or from an ACME server, and the handshakes.
//!
//! A new certificate is used from the next handshake on. Connections that are open keep their own.

#[cfg(feature = "acme")]
mod acme;
mod certificate;
mod current;
mod expiry;
mod files;
mod handshake;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::ring;
use switchboard_store::clock::Clock;
use tokio_rustls::TlsAcceptor;

use self::certificate::Certificate;
use self::current::CurrentCertificate;
use self::expiry::Expiry;
pub(crate) use self::handshake::{HandshakeFailure, HandshakeStream};
use crate::config::TlsConfig;
use crate::metrics::{Metrics, TlsMetrics};
use crate::tasks::Tasks;

/// The protocol in ALPN of the challenges of an ACME server (RFC 8737 section 6.2).
const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// The protocol in ALPN of all other connections.
const HTTP_PROTOCOL: &[u8] = b"http/1.1";

/// TLS on the clients' listener.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<CurrentCertificate>,
}

/// Checks the settings of TLS as a start does, without a network.
///
/// # Errors
/// A file cannot be read, the key does not fit the certificate, or the certificate has ended.
pub(crate) fn check(config: &TlsConfig, clock: &Clock) -> anyhow::Result<()> {
    match config {
        TlsConfig::Files { certificate, key } => {
            files::CertificateFiles::open(certificate, key, clock).context("tls").map(drop)
        }
        #[cfg(feature = "acme")]
        TlsConfig::Acme(acme) => acme::check(acme).context("acme"),
        #[cfg(not(feature = "acme"))]
        TlsConfig::Acme(_) => anyhow::bail!("this program was built without ACME"),
    }
}

impl Tls {
    /// Loads the certificate, and starts the task that replaces it.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub(crate) fn start(
        config: &TlsConfig,
        data: &Path,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> anyhow::Result<Arc<Self>> {
        let metrics = metrics.tls.clone();
        match config {
            TlsConfig::Files { certificate, key } => {
                let (files, first) = files::CertificateFiles::open(certificate, key, clock).context("tls")?;
                let tls = Self::new(false)?;
                let mut installer = CertificateInstaller::new(tls.current.clone(), clock.clone(), metrics);
                installer.install(&first);
                let stop = tasks.stop().clone();
                tasks.spawn_critical("certificate", async move {
                    tokio::select! {
                        () = files.watch_files(installer) => {}
                        () = stop.cancelled() => {}
                    }
                });
                Ok(tls)
            }
            #[cfg(feature = "acme")]
            TlsConfig::Acme(acme) => acme::start(acme, data, clock, metrics, tasks).context("acme"),
            #[cfg(not(feature = "acme"))]
            TlsConfig::Acme(_) => {
                anyhow::bail!("this program was built without ACME, which {} needs", data.display())
            }
        }
    }

    fn new(challenges: bool) -> anyhow::Result<Arc<Self>> {
        let current = Arc::new(CurrentCertificate::default());
        let provider = ring::default_provider();
        let mut config = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .context("TLS does not work")?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
        if challenges {
            config.alpn_protocols.push(ACME_PROTOCOL.to_vec());
        }
        // With tickets a client that reconnects saves the server the signature, and the server keeps no sessions.
        config.ticketer = ring::Ticketer::new().context("there are no random bytes")?;
        Ok(Arc::new(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current }))
    }
}

/// Takes certificates into use, and watches the end of the current one.
struct CertificateInstaller {
    current: Arc<CurrentCertificate>,
    clock: Clock,
    metrics: TlsMetrics,
    expiry: Option<Expiry>,
}

impl CertificateInstaller {
    fn new(current: Arc<CurrentCertificate>, clock: Clock, metrics: TlsMetrics) -> Self {
        Self { current, clock, metrics, expiry: None }
    }

    fn install(&mut self, certificate: &Certificate) {
        let Certificate { key, begins, ends, .. } = certificate;
        self.current.replace(key.clone());
        self.metrics.set_validity(begins.as_millis() / 1_000, ends.as_millis() / 1_000);
        tracing::info!(names = certificate.names(), %begins, %ends, "a certificate is in use");
        self.expiry = Some(Expiry::new(certificate.names(), *begins, *ends));
        self.check_expiry();
    }

    /// Logs a warning if the certificate ends soon or has ended.
    fn check_expiry(&mut self) {
        if let Some(expiry) = &mut self.expiry {
            expiry.check(self.clock.now());
        }
    }
}
