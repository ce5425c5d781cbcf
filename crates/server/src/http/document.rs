//! A document that does not change while the server runs. It is rendered at the first request, in a plain and a compressed form.

use std::io::Write as _;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use headers::{ETag, HeaderMapExt as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::assets::encoding::{self, Encoding};
use super::assets::{entity_tag, is_cached};

/// A JSON document and its compressed form.
#[derive(Debug)]
pub(super) struct Document {
    plain: Representation,
    /// The compressed form; `None` if compression failed.
    gzip: Option<Representation>,
}

/// One representation of a document.
#[derive(Debug)]
struct Representation {
    bytes: Bytes,
    tag: Option<ETag>,
}

impl Representation {
    fn new(bytes: Vec<u8>) -> Self {
        let tag = entity_tag(&Sha256::digest(&bytes));
        Self { bytes: bytes.into(), tag }
    }
}

impl Document {
    pub(super) fn new(json: &Value) -> Self {
        let plain = json.to_string().into_bytes();
        Self { gzip: compress(&plain).map(Representation::new).ok(), plain: Representation::new(plain) }
    }

    /// The smallest representation that the client accepts, or 304 if the client has it cached.
    pub(super) fn respond(&self, headers: &HeaderMap) -> Response {
        let accepts_gzip = encoding::accepted_encodings(headers).contains(&Encoding::Gzip);
        let gzip = self.gzip.as_ref().filter(|_| accepts_gzip);
        let representation = gzip.unwrap_or(&self.plain);
        let mut response = if is_cached(headers, representation.tag.as_ref()) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, "application/json")], representation.bytes.clone()).into_response()
        };
        let encoded = gzip.is_some() && response.status() == StatusCode::OK;
        let out = response.headers_mut();
        if encoded {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        representation.tag.iter().cloned().for_each(|tag| out.typed_insert(tag));
        response
    }
}

fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn request_headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    async fn body(response: Response) -> Vec<u8> {
        axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body").to_vec()
    }

    #[tokio::test]
    async fn each_encoding_of_a_document_has_its_own_etag_and_the_same_content() {
        let document = Document::new(&serde_json::json!({"openapi": "3.1.0 ".repeat(100)}));
        let plain = document.respond(&request_headers(&[]));
        let gzip = document.respond(&request_headers(&[(header::ACCEPT_ENCODING, "gzip, br")]));
        assert_eq!(plain.headers().get(header::CONTENT_ENCODING), None);
        assert_eq!(gzip.headers()[header::CONTENT_ENCODING], "gzip");
        assert_ne!(plain.headers()[header::ETAG], gzip.headers()[header::ETAG]);
        let (plain, gzip) = (body(plain).await, body(gzip).await);
        assert!(gzip.len() < plain.len() / 2, "{} of {}", gzip.len(), plain.len());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut text).expect("gzip");
        assert_eq!(text, plain);
    }

    #[tokio::test]
    async fn a_client_with_a_cached_document_receives_304() {
        let document = Document::new(&serde_json::json!({"openapi": "3.1.0"}));
        for accept in ["identity", "gzip"] {
            let tag = document.respond(&request_headers(&[(header::ACCEPT_ENCODING, accept)])).headers()
                [header::ETAG]
                .clone();
            let tag = tag.to_str().expect("text");
            let again = request_headers(&[(header::ACCEPT_ENCODING, accept), (header::IF_NONE_MATCH, tag)]);
            let again = document.respond(&again);
            assert_eq!(
                (again.status(), again.headers().get(header::CONTENT_ENCODING)),
                (StatusCode::NOT_MODIFIED, None)
            );
            assert_eq!(again.headers()[header::ETAG], tag);
            assert!(body(again).await.is_empty());
            let other = document.respond(&request_headers(&[(header::IF_NONE_MATCH, "\"old\"")]));
            assert_eq!(other.status(), StatusCode::OK);
        }
    }
}
