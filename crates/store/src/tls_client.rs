//! The TLS client's side of a connection, to the database and to other servers: which certificates it accepts.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier,
};

/// Reads the root certificates in a PEM file, or those of the system if no file is given.
///
/// # Errors
/// The file cannot be read or contains none. If no file is given: the system has none; `advice` is then the error's text.
pub fn root_certificates(ca: Option<&Path>, advice: &'static str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(!roots.is_empty(), advice);
        return Ok(roots);
    };
    let mut read = || -> anyhow::Result<()> {
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        ensure!(!roots.is_empty(), "it contains none");
        Ok(())
    };
    read().with_context(|| format!("cannot read root certificates from {}", ca.display()))?;
    Ok(roots)
}

/// A client that accepts certificates of these authorities only, for the name of the server.
///
/// # Errors
/// TLS does not work.
pub fn verifying_config(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    Ok(config_builder()?.with_root_certificates(roots).with_no_client_auth())
}

/// A client that accepts any certificate. That protects against eavesdropping, but not against an active attacker who poses as
/// the server.
///
/// # Errors
/// TLS does not work.
pub fn accepting_any_certificate() -> anyhow::Result<ClientConfig> {
    let builder = config_builder()?;
    let verifier = Arc::new(AcceptAnyCertificate(builder.crypto_provider().clone()));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn config_builder() -> anyhow::Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .context("TLS does not work")
}

#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
