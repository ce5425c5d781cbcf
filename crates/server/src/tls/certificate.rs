//! A certificate with its private key, read from PEM and checked.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use switchboard_protocol::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// A certificate, its intermediate certificates and its private key.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// The host names and addresses for which clients accept the certificate.
    pub(super) names: Vec<String>,
    /// When the certificate becomes valid.
    pub(super) begins: Timestamp,
    /// When the certificate ends.
    pub(super) ends: Timestamp,
}

impl Certificate {
    /// Reads a certificate and its key from PEM.
    ///
    /// # Errors
    /// One of them cannot be read, the key is another certificate's, or the certificate names no host.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .context("the certificate is not valid PEM")?;
        let Some(leaf) = chain.first() else { bail!("the file of the certificate contains none") };
        let (_, parsed) = parse_x509_certificate(leaf).context("the certificate is not valid X.509")?;
        let names = names(&parsed);
        ensure!(
            !names.is_empty(),
            "the certificate names no host (subject alternative name), so no client accepts it"
        );
        let validity = parsed.validity();
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let (begins, ends) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        let key = PrivateKeyDer::from_pem_slice(key).context("the private key is not valid PEM")?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let key = key.context("the private key does not fit the certificate")?;
        Ok(Self { key: Arc::new(key), names, begins, ends })
    }

    /// # Errors
    /// The certificate has ended.
    pub(super) fn check_end(&self, now: Timestamp) -> anyhow::Result<()> {
        ensure!(self.ends > now, "the certificate ended at {}", self.ends);
        Ok(())
    }

    /// The names in one string, for the log.
    pub(super) fn names(&self) -> String {
        self.names.join(" ")
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(std::net::IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(std::net::IpAddr::from);
    v4().or_else(v6).map(|address| address.to_string())
}
