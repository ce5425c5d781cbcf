//! The machine-readable documents: the ones that the server serves and the ones in `docs/` match the Rust types.

use std::path::{Path, PathBuf};

use serde_json::Value;
use switchboard::http::spec;
use switchboard_protocol::Command;

use crate::support::Server;

fn path_in_docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// The text of a document in the repository. It has line breaks, so that diffs are readable.
fn to_pretty_json(document: &Value) -> String {
    format!("{document:#}\n")
}

#[test]
fn the_documents_in_docs_match_the_types() {
    for (name, document) in [("openapi.json", spec::openapi()), ("asyncapi.json", spec::asyncapi())] {
        let path = path_in_docs(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, to_pretty_json(&document)).expect("written");
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == to_pretty_json(&document),
            "docs/{name} is not what the types say; if the change is meant, update it: \
             UPDATE_DOCS=1 cargo test -p switchboard-server --test it documents"
        );
    }
}

#[tokio::test]
async fn openapi_and_asyncapi_are_served() {
    let server = Server::start_with_auth().await;
    for (path, expected) in [("/v1/openapi.json", spec::openapi()), ("/v1/asyncapi.json", spec::asyncapi())] {
        let answer = server.gets(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        assert_eq!(answer.json(), expected, "{path}");
        let gzip = server.gets_with(path, "accept-encoding", "gzip").await;
        assert_eq!((gzip.status, gzip.header("content-encoding")), (200, "gzip"));
        assert!(
            gzip.content_length() < answer.content_length() / 3,
            "{} of {}",
            gzip.content_length(),
            answer.content_length()
        );
        let again = server.gets_with(path, "if-none-match", answer.header("etag")).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
    }
}

/// Collects every `$ref` of a document.
fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| collect_references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_in_the_documents_resolves() {
    for document in [spec::openapi(), spec::asyncapi()] {
        let mut found = Vec::new();
        collect_references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

#[test]
fn every_command_is_documented() {
    let (openapi, asyncapi) = (spec::openapi(), spec::asyncapi());
    for name in Command::NAMES {
        let over_http = openapi["paths"][format!("/v1/{name}")]["post"].is_object();
        assert_eq!(over_http, !Command::SOCKET_ONLY.contains(name), "{name}");
        assert!(asyncapi["channels"]["socket"]["messages"][name].is_object(), "{name}");
    }
}
