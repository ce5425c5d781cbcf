//! TLS on the clients' listener: the files of the certificate, or the ACME server that issues it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::ConfigError;
use super::file::File;

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The directory of the ACME account and certificate below `data`.
const DEFAULT_CACHE: &str = "acme";

/// TLS on `listen`, with a certificate from files. Without this section and [acme], `listen` speaks plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// A file with the certificate in PEM, followed by the intermediate certificates. The server loads it again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub certificate: Option<PathBuf>,
    /// A file with the certificate's private key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub key: Option<PathBuf>,
}

/// TLS on `listen`, with a certificate from an ACME server such as Let's Encrypt, for one node whose `listen` is reachable at port
/// 443 of every domain (TLS-ALPN-01).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeSection {
    /// The domains of the certificate. If there is one, the server obtains a certificate, which accepts the terms of service of
    /// the ACME server.
    pub domains: Vec<String>,
    /// E-mail addresses to which the ACME server may write.
    pub contact: Vec<String>,
    /// The URL of the ACME server's directory.
    pub directory: String,
    /// The directory of the account and the certificate. Without it, `acme` in `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cache: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify the ACME server. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub ca: Option<PathBuf>,
}

impl Default for AcmeSection {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            contact: Vec::new(),
            directory: LETS_ENCRYPT.to_owned(),
            cache: None,
            ca: None,
        }
    }
}

/// Where the certificate of the clients' listener comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsConfig {
    /// From files.
    Files {
        /// The certificate, followed by the intermediate certificates, in PEM.
        certificate: PathBuf,
        /// The private key in PEM.
        key: PathBuf,
    },
    /// From an ACME server.
    Acme(AcmeSection),
}

impl TlsConfig {
    /// The sections of the file that have these settings.
    pub(super) fn to_sections(this: Option<&Self>) -> (TlsSection, AcmeSection) {
        match this {
            None => Default::default(),
            Some(Self::Files { certificate, key }) => {
                let files = TlsSection { certificate: Some(certificate.clone()), key: Some(key.clone()) };
                (files, AcmeSection::default())
            }
            Some(Self::Acme(acme)) => (TlsSection::default(), acme.clone()),
        }
    }
}

impl AcmeSection {
    /// The directory of the account and the certificate.
    pub(crate) fn cache_in(&self, data: &Path) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| data.join(DEFAULT_CACHE))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let domain = |name: &String| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            !name.is_empty() && name.chars().all(allowed) && name.parse::<std::net::IpAddr>().is_err()
        };
        if let Some(wrong) = self.domains.iter().find(|name| !domain(name)) {
            return Err(ConfigError::new(format!(
                "`acme.domains`: {wrong:?} is not a domain such as chat.example.com, in lower case and without \
                 wildcards"
            )));
        }
        if let Some(wrong) =
            self.contact.iter().find(|address| !address.contains('@') || address.contains(':'))
        {
            return Err(ConfigError::new(format!("`acme.contact`: {wrong:?} is not an e-mail address")));
        }
        if !Url::parse(&self.directory).is_ok_and(|url| url.scheme() == "https" && url.has_host()) {
            return Err(ConfigError::new(format!(
                "`acme.directory`: {:?} is not an https:// address of an ACME directory",
                self.directory
            )));
        }
        if cfg!(not(feature = "acme")) && !self.domains.is_empty() {
            return Err(ConfigError::new("`acme.domains`: this program was built without ACME; use `[tls]`"));
        }
        Ok(())
    }
}

/// Checks the two sections and returns the one that is used.
pub(super) fn resolve(file: &File) -> Result<Option<TlsConfig>, ConfigError> {
    file.acme.check()?;
    match (&file.tls.certificate, &file.tls.key) {
        (Some(_), Some(_)) if !file.acme.domains.is_empty() => Err(ConfigError::new(
            "`tls.certificate` and `acme.domains`: the certificate has one source, so set one of them",
        )),
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsConfig::Files { certificate: certificate.clone(), key: key.clone() }))
        }
        (None, None) => {
            let acme = Some(&file.acme).filter(|acme| !acme.domains.is_empty());
            Ok(acme.cloned().map(TlsConfig::Acme))
        }
        (Some(_), None) => Err(ConfigError::new("`tls.certificate` needs `tls.key`, its private key")),
        (None, Some(_)) => {
            Err(ConfigError::new("`tls.key` needs `tls.certificate`, the certificate of the key"))
        }
    }
}
