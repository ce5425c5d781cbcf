//! A certificate authority for tests of TLS, and connections that trust it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use switchboard::config::{Config, TlsConfig};
use switchboard_client::Trust;
use switchboard_protocol::Timestamp;
use switchboard_store::clock::Clock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::in_time;

/// A certificate authority whose files, and those of a server's certificate, are in a directory.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Makes an authority and a certificate of a server.
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("a file");
        let authority = Self { directory, issuer: Issuer::new(params, key) };
        authority.install(&authority.issue());
        authority
    }

    /// Issues a certificate for this machine.
    pub(crate) fn issue(&self) -> Issued {
        self.issue_with(&["127.0.0.1", "localhost"], |_| {})
    }

    /// Issues a certificate that ends at a time.
    pub(crate) fn issue_until(&self, end: Timestamp) -> Issued {
        self.issue_with(&["127.0.0.1", "localhost"], |params| {
            let end = u64::try_from(end.as_millis()).expect("after 1970");
            params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_millis(end)).into();
        })
    }

    /// Issues a certificate for these names with parameters that `change` changes.
    pub(crate) fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Replaces the files of the server's certificate, one after the other.
    pub(crate) fn install(&self, issued: &Issued) {
        std::fs::write(self.key(), &issued.key).expect("a file");
        std::fs::write(self.certificate(), &issued.certificate).expect("a file");
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The file of the authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// The file of the server's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path().join("tls.crt")
    }

    /// The file of the server's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.path().join("tls.key")
    }

    /// Gives a server the certificate, and an operators' listener, which has no TLS.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.tls = Some(TlsConfig::Files { certificate: self.certificate(), key: self.key() });
        config.operator_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    }

    /// The settings of a server process, as environment variables.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
        [("SWITCHBOARD_TLS_CERTIFICATE", text(self.certificate())), ("SWITCHBOARD_TLS_KEY", text(self.key()))]
    }

    /// Trusts this authority only.
    pub(crate) fn trust(&self) -> Trust {
        Trust::from_file(&self.ca()).expect("the authority's certificate")
    }

    /// A TLS server that has a certificate of this authority.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let Issued { certificate, key } = self.issue();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        TlsAcceptor::from(Arc::new(config.expect("they fit")))
    }

    /// A TLS client that trusts this authority and offers these protocols in ALPN.
    pub(crate) fn connector(&self, protocols: &[&str]) -> TlsConnector {
        connector_trusting(&self.ca(), protocols)
    }
}

/// A TLS client that trusts the authorities in a file and offers these protocols in ALPN.
pub(crate) fn connector_trusting(ca: &Path, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a file") {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A TLS connection on which a test sends HTTP.
pub(crate) struct TlsRaw(TlsStream<TcpStream>);

impl TlsRaw {
    /// Connects and completes the handshake.
    pub(crate) async fn connect(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<Self> {
        let stream = in_time("a connection", TcpStream::connect(address)).await?;
        Self::handshake(connector, stream, "127.0.0.1").await
    }

    /// Completes the handshake on a TCP connection to a server of this name.
    pub(crate) async fn handshake(
        connector: &TlsConnector,
        stream: TcpStream,
        name: &str,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        in_time("a handshake", connector.connect(name, stream)).await.map(Self)
    }

    /// The server's certificate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
    }

    pub(crate) async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("the server reads", self.0.write_all(bytes.as_ref())).await.expect("written");
    }

    /// Reads the head of an HTTP response.
    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(in_time("an answer", self.0.read_u8()).await.expect("an answer"));
        }
        String::from_utf8(head).expect("UTF-8")
    }

    /// Requests a path with GET and reads the response until the server closes.
    pub(crate) async fn gets(&mut self, path: &str, headers: &str) -> String {
        self.writes(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"))
            .await;
        let mut response = Vec::new();
        in_time("the response", self.0.read_to_end(&mut response)).await.expect("the response");
        String::from_utf8(response).expect("UTF-8")
    }
}

/// The first certificate in PEM, as DER.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}

/// The time of the system, this much later.
pub(crate) fn time_from_now(by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).expect("it fits");
    Timestamp::from_millis(Clock::system().now().as_millis() + by)
}
