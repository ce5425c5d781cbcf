//! Serves the chat page from the binary: the build of `packages/web`, and the scripts that other pages load.

pub(super) mod encoding;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headers::{ETag, HeaderMapExt as _, IfNoneMatch};
use rust_embed::{EmbeddedFile, RustEmbed};

use self::encoding::Encoding;
use super::problem::{unknown_path, wrong_method};
use crate::config::OPAQUE_ORIGIN;
use crate::services::Services;

#[derive(RustEmbed)]
#[folder = "../../packages/web/dist"]
#[allow_missing = true]
struct Page;

const INDEX: &str = "index.html";

const PAGE_NOT_BUILT: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Switchboard</title>\
    <p>The server runs. Its chat page was not built: run <code>make page</code>, and build the server again.";

/// The page may load scripts and styles only from its own server, may connect only to it, and may contain no inline ones.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
                      img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors";

/// Disables the browser features that the page does not use, even if it is embedded. The list has only names that browsers know,
/// because Chromium warns about others.
const PERMISSIONS_POLICY: &str = "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), display-capture=(), \
                           encrypted-media=(), fullscreen=(), gamepad=(), geolocation=(), gyroscope=(), hid=(), \
                           idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), \
                           picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), \
                           storage-access=(), usb=(), window-management=(), xr-spatial-tracking=()";

/// The pages that may embed the page of a `dev` server: all pages on the same machine, on any port.
const DEV_ANCESTORS: &str = "http://localhost:* http://127.0.0.1:*";

/// Scripts for other pages, under names that do not change.
const SHARED_SCRIPTS: [&str; 3] = ["switchboard-chat.js", "switchboard-launcher.js", "switchboard.js"];

/// The directory of files whose names contain a hash of their content.
const HASHED_PREFIX: &str = "assets/";

/// Serves a file of the page, or 404.
pub(super) async fn serve_file(
    State(services): State<Arc<Services>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let path = asset_path(&uri);
    if path == INDEX && Page::get(INDEX).is_none() {
        return not_built_response();
    }
    let Some((file, encoding)) = find_encoded(path, &headers) else {
        return unknown_path(uri.path()).into_response();
    };
    let tag = entity_tag(&file.metadata.sha256_hash());
    let mut response = if is_cached(&headers, tag.as_ref()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type(path))], to_body(file.data)).into_response()
    };
    if let (Some(name), StatusCode::OK) = (encoding.name(), response.status()) {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    let out = response.headers_mut();
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    tag.into_iter().for_each(|tag| out.typed_insert(tag));
    let cache_control =
        if path.starts_with(HASHED_PREFIX) { "public, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    if path == INDEX {
        out.extend(header_value(
            header::CONTENT_SECURITY_POLICY,
            security_policy_header(&services, uri.path() == "/embed"),
        ));
        if uri.path() != "/embed" {
            // A page of another origin that opens this one gets no handle to it, so it cannot replace its address.
            out.insert(
                HeaderName::from_static("cross-origin-opener-policy"),
                HeaderValue::from_static("same-origin"),
            );
        }
        out.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        out.insert(
            HeaderName::from_static("permissions-policy"),
            HeaderValue::from_static(PERMISSIONS_POLICY),
        );
    } else if path.starts_with(HASHED_PREFIX) || SHARED_SCRIPTS.contains(&path) {
        // The custom element, and the scripts that it loads later, run on pages of other origins.
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        out.insert(
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("cross-origin"),
        );
    }
    response
}

fn asset_path(uri: &Uri) -> &str {
    match uri.path().strip_prefix('/').unwrap_or_default() {
        "" | "embed" | "moderate" => INDEX,
        path => path,
    }
}

/// The fallback for methods other than GET: 405 if the path is a file, otherwise 404.
pub(super) async fn reject_method(method: Method, uri: Uri) -> Response {
    let path = asset_path(&uri);
    if path == INDEX || find_encoded(path, &HeaderMap::new()).is_some() {
        return wrong_method(method).await.into_response();
    }
    // Without this, the router would set `Allow` to the methods of the fallback.
    let mut response = unknown_path(uri.path()).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(""));
    response
}

/// The response of a binary that was built without the page.
fn not_built_response() -> Response {
    let html = [
        (header::CONTENT_TYPE, content_type(INDEX)),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, html, PAGE_NOT_BUILT).into_response()
}

/// The file in the smallest encoding that exists and that the client accepts.
fn find_encoded(path: &str, headers: &HeaderMap) -> Option<(EmbeddedFile, Encoding)> {
    // A client must not request an encoded file, such as `index.html.br`, by its own name.
    let is_encoded_form =
        |encoding: &Encoding| encoding.name().is_some() && path.ends_with(encoding.suffix());
    if !is_safe_path(path) || Encoding::ALL.iter().any(is_encoded_form) {
        return None;
    }
    let mut accepted = encoding::accepted_encodings(headers).into_iter();
    accepted.find_map(|encoding| Some((Page::get(&format!("{path}{}", encoding.suffix()))?, encoding)))
}

/// Whether a path stays below the directory and is the only spelling of its file. A debug build reads from the disk, where
/// rust-embed follows symbolic links outside the directory, such as `/proc/self/exe`, and accepts `\` for `/`.
fn is_safe_path(path: &str) -> bool {
    !path.contains('\\') && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// The tag of a representation with this hash (RFC 9110 section 8.8.3).
pub(super) fn entity_tag(hash: &[u8]) -> Option<ETag> {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(hash)).parse().ok()
}

/// Whether the client has this representation cached (RFC 9110 section 13.1.2, weak comparison).
pub(super) fn is_cached(headers: &HeaderMap, tag: Option<&ETag>) -> bool {
    let known = headers.typed_get::<IfNoneMatch>().zip(tag);
    known.is_some_and(|(known, tag)| !known.precondition_passes(tag))
}

fn security_policy_header(services: &Services, embedded: bool) -> String {
    let mut images = "img-src 'self' data:".to_owned();
    for host in &services.profiles.avatar_hosts {
        // Writing to a string cannot fail.
        let _ = write!(images, " https://{host}");
    }
    let policy = CONTENT_SECURITY_POLICY.replacen("img-src 'self' data:", &images, 1);
    if !embedded {
        return format!("{policy} 'none'");
    }
    let mut policy = format!("{policy} 'self'");
    // `frame-ancestors` cannot name an opaque origin.
    for origin in services.allowed_origins.iter().filter(|origin| *origin != OPAQUE_ORIGIN) {
        // Writing to a string cannot fail.
        let _ = write!(policy, " {origin}");
    }
    if services.is_dev() {
        let _ = write!(policy, " {DEV_ANCESTORS}");
    }
    policy
}

fn header_value(name: HeaderName, value: String) -> Option<(HeaderName, HeaderValue)> {
    // Configured origins are URLs, which are valid header values.
    Some((name, HeaderValue::try_from(value).ok()?))
}

fn to_body(data: Cow<'static, [u8]>) -> axum::body::Body {
    match data {
        Cow::Borrowed(bytes) => bytes::Bytes::from_static(bytes).into(),
        Cow::Owned(bytes) => bytes.into(),
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_served() {
        for (path, plain) in [
            ("index.html", true),
            ("assets/index-Dq8r.js", true),
            ("", false),
            ("/etc/os-release", false),
            ("assets//x.js", false),
            ("assets/", false),
            ("assets/../index.html", false),
            ("./index.html", false),
            (".env", false),
            ("\\etc\\os-release", false),
            ("assets\\x.js", false),
        ] {
            assert_eq!(is_safe_path(path), plain, "{path}");
        }
    }

    #[tokio::test]
    async fn a_binary_without_the_page_names_the_command_that_builds_it() {
        let answer = not_built_response();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let html = axum::body::to_bytes(answer.into_body(), 1_000).await.expect("a short page");
        assert!(std::str::from_utf8(&html).expect("text").contains("<code>make page</code>"));
    }
}
