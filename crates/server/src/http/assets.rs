//! The chat page, from the binary: what Vite made of `packages/web`, and the scripts that other pages load.

pub(super) mod encoding;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::{EmbeddedFile, RustEmbed};

use self::encoding::Encoding;
use super::problem::{nothing_at, wrong_method};
use crate::config::OPAQUE_ORIGIN;
use crate::services::Services;

#[derive(RustEmbed)]
#[folder = "../../packages/web/dist"]
#[allow_missing = true]
struct Page;

const INDEX: &str = "index.html";

const NOT_BUILT: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Switchboard</title>\
    <p>The server runs. Its chat page was not built: say <code>make page</code>, and build the server again.";

/// The page runs its own script and style and speaks to its own server; nothing else, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors";

/// What the page has no use for, whoever it is embedded by. Only what browsers know: Chromium warns of other names.
const PERMISSIONS: &str = "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), display-capture=(), \
                           encrypted-media=(), fullscreen=(), gamepad=(), geolocation=(), gyroscope=(), hid=(), \
                           idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), \
                           picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), \
                           storage-access=(), usb=(), window-management=(), xr-spatial-tracking=()";

/// A `dev` server is tried out from pages on the same machine, on whatever port.
const DEV_ANCESTORS: &str = "http://localhost:* http://127.0.0.1:*";

/// Scripts under a name that stays the same, for the pages of others.
const SHARED: [&str; 2] = ["switchboard-chat.js", "switchboard.js"];

/// Files whose names change with their content.
const HASHED: &str = "assets/";

/// A file of the page; a real 404 for what is not there.
pub(super) async fn file(State(services): State<Arc<Services>>, uri: Uri, headers: HeaderMap) -> Response {
    let path = file_of(&uri);
    if path == INDEX && Page::get(INDEX).is_none() {
        return not_built();
    }
    let Some((file, encoding)) = best(path, &headers) else {
        return nothing_at(uri.path()).into_response();
    };
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(file.metadata.sha256_hash()));
    let mut response = if knows(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type(path))], body(file.data)).into_response()
    };
    if let (Some(name), StatusCode::OK) = (encoding.name(), response.status()) {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    let out = response.headers_mut();
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    out.extend(text(header::ETAG, tag));
    let keep = if path.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if path == INDEX {
        out.extend(text(header::CONTENT_SECURITY_POLICY, policy(&services, uri.path() == "/embed")));
        out.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        out.insert(HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS));
    } else if path.starts_with(HASHED) || SHARED.contains(&path) {
        // The custom element runs on pages of other origins, and so do the parts that it loads later.
        out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        out.insert(
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("cross-origin"),
        );
    }
    response
}

fn file_of(uri: &Uri) -> &str {
    match uri.path().strip_prefix('/').unwrap_or_default() {
        "" | "embed" => INDEX,
        path => path,
    }
}

/// What another method than GET answers where no route is: the file is there for GET, or nothing is.
pub(super) async fn not_get(method: Method, uri: Uri) -> Response {
    let path = file_of(&uri);
    if path == INDEX || best(path, &HeaderMap::new()).is_some() {
        return wrong_method(method).await.into_response();
    }
    // The router would say which methods there are, and there are none.
    let mut response = nothing_at(uri.path()).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(""));
    response
}

/// What a binary answers in place of a page that it was built without.
fn not_built() -> Response {
    let html = [
        (header::CONTENT_TYPE, content_type(INDEX)),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, html, NOT_BUILT).into_response()
}

/// The file in the encoding that the client likes best of those it was built in.
fn best(path: &str, headers: &HeaderMap) -> Option<(EmbeddedFile, Encoding)> {
    // They are forms of a file, no files of their own.
    let form = |encoding: &Encoding| encoding.name().is_some() && path.ends_with(encoding.suffix());
    if !is_plain(path) || Encoding::ALL.iter().any(form) {
        return None;
    }
    let mut accepted = encoding::accepted(headers).into_iter();
    accepted.find_map(|encoding| Some((Page::get(&format!("{path}{}", encoding.suffix()))?, encoding)))
}

/// Whether a path leads down, by one name for each file. A debug build reads from the disk, and rust-embed lets
/// whoever climbs out of the directory read what a symbolic link points to: `/proc/self/exe`, for one. It also
/// takes `\` for `/`.
fn is_plain(path: &str) -> bool {
    !path.contains('\\') && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// Whether the client has this representation (RFC 9110 section 13.1.2; the comparison is the weak one).
pub(super) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let all = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(','))
        .map(|known| known.trim())
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

fn policy(services: &Services, embedded: bool) -> String {
    if !embedded {
        return format!("{POLICY} 'none'");
    }
    let mut policy = format!("{POLICY} 'self'");
    // A page without an origin cannot be named there.
    for origin in services.allowed_origins.iter().filter(|origin| *origin != OPAQUE_ORIGIN) {
        // Writing to a string does not fail.
        let _ = write!(policy, " {origin}");
    }
    if services.is_dev() {
        let _ = write!(policy, " {DEV_ANCESTORS}");
    }
    policy
}

fn text(name: HeaderName, value: String) -> Option<(HeaderName, HeaderValue)> {
    // Origins of the configuration are URLs, and tags are of base64: both are legal in a header.
    Some((name, HeaderValue::try_from(value).ok()?))
}

fn body(data: Cow<'static, [u8]>) -> axum::body::Body {
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
    fn a_path_leads_down_from_where_the_files_are() {
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
            assert_eq!(is_plain(path), plain, "{path}");
        }
    }

    #[tokio::test]
    async fn a_binary_without_the_page_says_how_it_comes_by_one() {
        let answer = not_built();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let html = axum::body::to_bytes(answer.into_body(), 1_000).await.expect("a short page");
        assert!(std::str::from_utf8(&html).expect("text").contains("<code>make page</code>"));
    }
}
