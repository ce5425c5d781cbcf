//! A certificate from files, which is loaded again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use switchboard_store::clock::Clock;

use super::{Certificate, CertificateInstaller};
use crate::reload::{POLL_INTERVAL, Reloads};

/// The two files of a certificate.
pub(super) struct CertificateFiles {
    paths: Arc<CertificatePaths>,
    /// What is in use.
    loaded: FileContent,
}

struct CertificatePaths {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the two files contained when they were read.
#[derive(Clone, PartialEq, Eq)]
enum FileContent {
    Pair { certificate: Vec<u8>, key: Vec<u8> },
    Unreadable(String),
}

impl CertificatePaths {
    fn read(&self) -> FileContent {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        match (read(&self.certificate), read(&self.key)) {
            (Ok(certificate), Ok(key)) => FileContent::Pair { certificate, key },
            (Err(error), _) | (_, Err(error)) => FileContent::Unreadable(error),
        }
    }
}

impl FileContent {
    fn parse(&self, clock: &Clock) -> anyhow::Result<Certificate> {
        match self {
            Self::Unreadable(error) => Err(anyhow::Error::msg(error.clone())),
            Self::Pair { certificate, key } => {
                let parsed = Certificate::from_pem(certificate, key)?;
                parsed.check_end(clock.now())?;
                Ok(parsed)
            }
        }
    }
}

impl CertificateFiles {
    /// Loads the certificate.
    ///
    /// # Errors
    /// A file cannot be read, the key does not fit the certificate, or the certificate has ended.
    pub(super) fn open(certificate: &Path, key: &Path, clock: &Clock) -> anyhow::Result<(Self, Certificate)> {
        let paths = CertificatePaths { certificate: certificate.to_owned(), key: key.to_owned() };
        let loaded = paths.read();
        let context = || format!("{} with {}", certificate.display(), key.display());
        let parsed = loaded.parse(clock).with_context(context)?;
        Ok((Self { paths: Arc::new(paths), loaded }, parsed))
    }

    /// Loads the certificate again whenever the files change. If they cannot be used, the server keeps the certificate that it has.
    /// Never returns.
    pub(super) async fn watch_files(self, mut installer: CertificateInstaller) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let mut reloads = Reloads::new(self.loaded);
        loop {
            ticks.tick().await;
            installer.check_expiry();
            let paths = self.paths.clone();
            let Ok(content) = tokio::task::spawn_blocking(move || paths.read()).await else { continue };
            if !reloads.is_news(&content) {
                continue;
            }
            match content.parse(&installer.clock) {
                Ok(certificate) => {
                    installer.install(&certificate);
                    reloads.set_used(content);
                }
                Err(error) => {
                    installer.metrics.load_failures.inc();
                    tracing::error!(
                        certificate = %self.paths.certificate.display(),
                        key = %self.paths.key.display(),
                        error = format!("{error:#}"),
                        "cannot use the new certificate; the old one stays in use"
                    );
                    reloads.set_refused(content);
                }
            }
        }
    }
}
