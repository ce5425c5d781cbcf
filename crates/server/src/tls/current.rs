//! The certificate that new handshakes use.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate that new handshakes use. It can be replaced at any time; connections that are open keep theirs.
#[derive(Default)]
pub(super) struct CurrentCertificate {
    key: RwLock<Option<Arc<CertifiedKey>>>,
    /// Answers the challenges of an ACME server.
    challenges: RwLock<Option<Arc<dyn ResolvesServerCert>>>,
}

impl CurrentCertificate {
    /// Uses `key` for handshakes from now on.
    pub(super) fn replace(&self, key: Arc<CertifiedKey>) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// The certificate; `None` until the first one has been obtained.
    pub(super) fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers the challenges of an ACME server with `challenges` from now on.
    #[cfg(feature = "acme")]
    pub(super) fn set_challenges(&self, challenges: Arc<dyn ResolvesServerCert>) {
        *self.challenges.write().unwrap_or_else(PoisonError::into_inner) = Some(challenges);
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.any(|protocol| protocol == super::ACME_PROTOCOL) {
            let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner).clone();
            return challenges?.resolve(hello);
        }
        self.get()
    }
}
