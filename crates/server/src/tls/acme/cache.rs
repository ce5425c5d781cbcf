//! The account and the certificate on disk, so that a restart orders nothing.

use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_acme::{AccountCache, CertCache};
use sha2::{Digest as _, Sha256};

/// The last certificate that passed through the cache, with its key in PEM, until it is in use.
#[derive(Default)]
pub(super) struct IssuedCertificate(Mutex<Option<Vec<u8>>>);

impl IssuedCertificate {
    /// The certificate, if there is a new one.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, pem: &[u8]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pem.to_vec());
    }
}

/// A directory with the account's key and the certificate. Only the server's user may read it.
#[derive(Clone)]
pub(super) struct AcmeCache {
    directory: PathBuf,
    issued: Arc<IssuedCertificate>,
}

impl AcmeCache {
    /// Creates the directory if it does not exist.
    pub(super) fn open(directory: &Path, issued: Arc<IssuedCertificate>) -> anyhow::Result<Self> {
        let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        created.with_context(|| format!("cannot create {}", directory.display()))?;
        let writable = tempfile::tempfile_in(directory);
        writable.with_context(|| format!("nothing can be written to {}", directory.display()))?;
        Ok(Self { directory: directory.to_owned(), issued })
    }

    async fn read(&self, name: String) -> io::Result<Option<Vec<u8>>> {
        let path = self.directory.join(name);
        tokio::task::spawn_blocking(move || match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await?
    }

    /// Replaces a file as a whole: a crash leaves the old one or the new one.
    async fn write(&self, name: String, bytes: &[u8]) -> io::Result<()> {
        let (directory, bytes) = (self.directory.clone(), bytes.to_vec());
        tokio::task::spawn_blocking(move || {
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(directory.join(name)).map(drop).map_err(io::Error::from)
        })
        .await?
    }
}

/// The name of a file for these domains or contacts at this ACME server.
fn file_name(kind: &str, of: &[String], server: &str) -> String {
    let mut hash = Sha256::new();
    for part in of {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(server);
    format!("{kind}-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

#[async_trait]
impl CertCache for AcmeCache {
    type EC = io::Error;

    async fn load_cert(&self, domains: &[String], server: &str) -> io::Result<Option<Vec<u8>>> {
        let pem = self.read(file_name("certificate", domains, server)).await?;
        if let Some(pem) = &pem {
            self.issued.set(pem);
        }
        Ok(pem)
    }

    async fn store_cert(&self, domains: &[String], server: &str, pem: &[u8]) -> io::Result<()> {
        // The certificate is used even if it cannot be stored.
        self.issued.set(pem);
        self.write(file_name("certificate", domains, server), pem).await
    }
}

#[async_trait]
impl AccountCache for AcmeCache {
    type EA = io::Error;

    async fn load_account(&self, contact: &[String], server: &str) -> io::Result<Option<Vec<u8>>> {
        self.read(file_name("account", contact, server)).await
    }

    async fn store_account(&self, contact: &[String], server: &str, key: &[u8]) -> io::Result<()> {
        self.write(file_name("account", contact, server), key).await
    }
}
