//! A certificate from an ACME server (RFC 8555), by the challenge TLS-ALPN-01 (RFC 8737) on the clients' listener.

mod cache;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustls::ClientConfig;
use rustls_acme::{AcmeConfig, EventError};
use switchboard_store::clock::Clock;
use switchboard_store::tls_client;
use tokio::time::Instant;

use self::cache::{AcmeCache, IssuedCertificate};
use super::{Certificate, CertificateInstaller, Tls};
use crate::config::AcmeSection;
use crate::metrics::TlsMetrics;
use crate::tasks::Tasks;

/// How long an order of a certificate may take. A server answers within seconds.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest delay before the next attempt, as an exponent of seconds; the library doubles the delay up to it.
const MAX_BACKOFF: u32 = 16;

/// How often the end of the certificate is checked.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

type State = rustls_acme::AcmeState<std::io::Error, std::io::Error>;

/// Checks the settings without the network.
pub(super) fn check(section: &AcmeSection) -> anyhow::Result<()> {
    client(section.ca.as_deref()).map(drop)
}

/// Takes the certificate of the last run into use if there is one, and starts the task that obtains and renews it.
pub(super) fn start(
    section: &AcmeSection,
    data: &Path,
    clock: &Clock,
    metrics: TlsMetrics,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Tls>> {
    let issued = Arc::new(IssuedCertificate::default());
    let cache = AcmeCache::open(&section.cache_in(data), issued.clone())?;
    let account = Account { section: section.clone(), client: client(section.ca.as_deref())?, cache };
    let tls = Tls::new(true)?;
    let installer = CertificateInstaller::new(tls.current.clone(), clock.clone(), metrics);
    let deadline = Instant::now() + ORDER_TIMEOUT;
    let renewals = Renewals { account, issued, installer, failures: 0, deadline };
    let stop = tasks.stop().clone();
    tasks.spawn_critical("certificate", async move {
        tokio::select! {
            () = renewals.keep_renewed() => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(tls)
}

/// The client of the ACME server.
fn client(ca: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    const NO_ROOTS: &str = "this system has no root certificates; name a file with `acme.ca`";
    Ok(Arc::new(tls_client::verifying_config(tls_client::root_certificates(ca, NO_ROOTS)?)?))
}

/// The account at an ACME server.
struct Account {
    section: AcmeSection,
    client: Arc<ClientConfig>,
    cache: AcmeCache,
}

impl Account {
    /// Begins to load and order certificates.
    fn start_state_machine(&self) -> State {
        let contact = self.section.contact.iter().map(|address| format!("mailto:{address}"));
        AcmeConfig::new_with_client_config(&self.section.domains, self.client.clone())
            .contact(contact)
            .directory(&self.section.directory)
            .cache(self.cache.clone())
            .state()
    }
}

/// Takes issued certificates into use, and reports failures.
struct Renewals {
    account: Account,
    issued: Arc<IssuedCertificate>,
    installer: CertificateInstaller,
    /// How many orders have failed since the last success.
    failures: u32,
    /// When the next event must have come. The library has no time-out for a server that does not answer.
    deadline: Instant,
}

impl Renewals {
    /// Loads, orders and renews the certificate. Never returns.
    async fn keep_renewed(mut self) {
        let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
        let mut state = self.start_state_machine();
        loop {
            tokio::select! {
                event = state.next() => {
                    if let Some(Err(error)) = event {
                        self.report(&error);
                    }
                    if let Some(pem) = self.issued.take() {
                        self.install(&pem);
                    }
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.installer.metrics.load_failures.inc();
                    let directory = &self.account.section.directory;
                    tracing::warn!(directory, "the ACME server does not answer; trying again");
                    self.deadline = Instant::now() + ORDER_TIMEOUT;
                    state = self.start_state_machine();
                }
                _ = ticks.tick() => self.installer.check_expiry(),
            }
        }
    }

    fn start_state_machine(&self) -> State {
        let state = self.account.start_state_machine();
        self.installer.current.set_challenges(state.resolver());
        state
    }

    fn report(&mut self, error: &EventError<std::io::Error, std::io::Error>) {
        self.installer.metrics.load_failures.inc();
        let mut retry = Duration::ZERO;
        if let EventError::Order(_) = error {
            retry = Duration::from_secs(1 << self.failures.min(MAX_BACKOFF));
            self.failures += 1;
            self.deadline = Instant::now() + retry + ORDER_TIMEOUT;
        }
        let (directory, error) = (&self.account.section.directory, error.to_string());
        let retry_seconds = retry.as_secs();
        tracing::warn!(directory, error, retry_seconds, "the certificate cannot be obtained or kept by ACME");
    }

    fn install(&mut self, pem: &[u8]) {
        match Certificate::from_pem(pem, pem) {
            Ok(certificate) => {
                self.installer.install(&certificate);
                self.failures = 0;
                let (begins, ends) = (certificate.begins.as_millis(), certificate.ends.as_millis());
                // The library renews when a third of the lifetime is left.
                let renewal = ends - (ends - begins) / 3 - self.installer.clock.now().as_millis();
                let renewal = Duration::from_millis(u64::try_from(renewal).unwrap_or(0));
                self.deadline = Instant::now() + renewal + ORDER_TIMEOUT;
            }
            Err(error) => {
                self.installer.metrics.load_failures.inc();
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot use the certificate from the ACME server"
                );
            }
        }
    }
}
