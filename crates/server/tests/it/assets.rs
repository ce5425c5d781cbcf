//! The chat page over HTTP: caching, compression, embedding.

use switchboard::config::Mode;

use crate::support::{Answer, RawSocket, Server};

/// Requests the chat page. It must have been built before these tests run.
async fn get_page(server: &Server) -> Answer {
    let page = server.gets("/").await;
    assert_eq!(page.status, 200, "the page was not built: run `make page`\n{}", page.text);
    page
}

/// The path of the page's script, which changes with its content.
async fn get_page_script(server: &Server) -> String {
    let page = get_page(server).await;
    let start = page.text.find("/assets/").expect("a script");
    let end = start + page.text[start..].find('"').expect("its end");
    page.text[start..end].to_owned()
}

#[tokio::test]
async fn the_page_is_revalidated_and_its_assets_are_cached() {
    let server = Server::start().await;
    let page = get_page(&server).await;
    assert_eq!(page.header("cache-control"), "no-cache");
    assert!(page.header("content-type").starts_with("text/html"));
    let path = get_page_script(&server).await;
    let script = server.gets(&path).await;
    assert_eq!(script.header("cache-control"), "public, max-age=31536000, immutable");
    assert!(script.header("content-type").starts_with("text/javascript"));
    let missing = server.gets(&path.replace(".js", "x.js")).await;
    assert_eq!(
        (missing.status, missing.header("cache-control")),
        (404, "no-store"),
        "a missing asset is not answered with the page"
    );
    assert_eq!(server.gets("/assets/").await.status, 404);
    assert_eq!(server.gets("/nothing-here").await.status, 404);
}

/// The references are relative because a proxy may serve the page below a path.
#[tokio::test]
async fn the_page_references_its_assets_by_relative_paths() {
    let server = Server::start().await;
    for path in ["/", "/embed", "/moderate"] {
        let html = server.gets(path).await.text;
        let parts: Vec<_> = html.split(" src=\"").skip(1).chain(html.split(" href=\"").skip(1)).collect();
        assert!(parts.len() >= 3, "a script, a style and an icon: {html}");
        assert!(parts.iter().all(|rest| rest.starts_with("./")), "{html}");
    }
    let script = server.gets(&get_page_script(&server).await).await.text;
    assert!(!script.contains("\"/assets/") && !script.contains("\"/favicon"), "an absolute path");
}

/// The test writes the bytes itself, because an HTTP client would normalize these paths.
#[tokio::test]
async fn no_file_outside_the_page_is_served() {
    let server = Server::start().await;
    get_page(&server).await;
    for path in [
        "/../package.json",
        "/assets/../../package.json",
        "/%2e%2e/package.json",
        "/..%2fpackage.json",
        "//etc/hostname",
        "/assets/../index.html",
        "/./index.html",
        "/\\..\\package.json",
        // Paths of symbolic links in `/proc` that lead to files outside the page's directory.
        "/../../../../../../../../../../proc/self/exe",
        "/\\proc\\self\\exe",
    ] {
        let mut raw = RawSocket::connect(server.address()).await;
        raw.writes(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address())).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}\n{head}");
    }
}

#[tokio::test]
async fn a_file_is_served_in_the_smallest_accepted_encoding() {
    let server = Server::start().await;
    let path = get_page_script(&server).await;
    let plain = server.gets(&path).await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    let mut sizes = vec![plain.content_length()];
    let mut tags = vec![plain.header("etag").to_owned()];
    for (accept, coding) in [("gzip", "gzip"), ("gzip, br", "br"), ("br;q=0, gzip", "gzip")] {
        let packed = server.gets_with(&path, "accept-encoding", accept).await;
        assert_eq!((packed.status, packed.header("content-encoding")), (200, coding), "{accept}");
        assert!(packed.header("content-type").starts_with("text/javascript"));
        sizes.push(packed.content_length());
        tags.push(packed.header("etag").to_owned());
    }
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2] && sizes[3] == sizes[1], "{sizes:?}");
    assert!(
        tags[0] != tags[1] && tags[1] != tags[2] && tags[3] == tags[1],
        "each encoding has its own tag: {tags:?}"
    );
    for suffix in [".br", ".gz"] {
        assert_eq!(
            server.gets(&format!("{path}{suffix}")).await.status,
            404,
            "an encoding has no path of its own"
        );
    }
}

#[tokio::test]
async fn a_cached_file_is_answered_with_304() {
    let server = Server::start().await;
    let tag = get_page(&server).await.header("etag").to_owned();
    for known in [tag.clone(), format!("\"x\", {tag}"), format!("W/{tag}"), "*".to_owned()] {
        let answer = server.gets_with("/", "if-none-match", &known).await;
        assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{known}");
        assert_eq!(answer.header("etag"), tag);
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    }
    assert_eq!(server.gets_with("/", "if-none-match", "\"x\"").await.status, 200);
}

#[tokio::test]
async fn a_head_request_has_the_headers_of_a_get_and_no_body() {
    let server = Server::start().await;
    let path = get_page_script(&server).await;
    for path in ["/", "/embed", "/moderate", "/switchboard-chat.js", &path] {
        let whole = server.gets_with(path, "accept-encoding", "br").await;
        let head = server.request(server.asks("HEAD", path).header("accept-encoding", "br")).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.content_length(), whole.content_length(), "{path}");
        for name in ["etag", "content-type", "content-encoding", "cache-control", "content-security-policy"] {
            assert_eq!(head.header(name), whole.header(name), "{name} of {path}");
        }
    }
    let wrong = server.request(server.asks("POST", "/")).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET,HEAD"));
    assert_eq!(wrong.problem()["code"], "unknown_type");
}

#[tokio::test]
async fn only_the_embedded_page_may_be_framed_and_only_by_configured_origins() {
    const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
                          img-src 'self' data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors";
    let server = Server::start_with_auth_and(|config| {
        config.allowed_origins = vec!["https://shop.example".to_owned()];
    })
    .await;
    let whole = get_page(&server).await;
    assert_eq!(whole.header("content-security-policy"), format!("{CONTENT_SECURITY_POLICY} 'none'"));
    assert_eq!(whole.header("referrer-policy"), "no-referrer");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert_eq!(whole.header("cross-origin-opener-policy"), "same-origin");
    let permissions = whole.header("permissions-policy");
    assert!(permissions.contains("camera=()") && !permissions.contains("clipboard-write"), "{permissions}");
    let embedded = server.gets("/embed?conversation=%23general&theme=dark&lang=de&sidebar=0").await;
    assert_eq!((embedded.status, &embedded.text), (200, &whole.text));
    assert_eq!(
        embedded.header("content-security-policy"),
        format!("{CONTENT_SECURITY_POLICY} 'self' https://shop.example")
    );
    assert_eq!(embedded.header("cross-origin-opener-policy"), "");
    assert_eq!(server.gets("/embed?token=x").await.status, 401);

    let dev = Server::start_with(|config| config.mode = Mode::Dev).await;
    let ancestors = format!("{CONTENT_SECURITY_POLICY} 'self' http://localhost:* http://127.0.0.1:*");
    assert_eq!(dev.gets("/embed").await.header("content-security-policy"), ancestors);
}

#[tokio::test]
async fn embed_scripts_may_be_loaded_from_other_origins() {
    let server = Server::start().await;
    let path = get_page_script(&server).await;
    for path in ["/switchboard.js", "/switchboard-chat.js", "/switchboard-launcher.js", &path] {
        let answer = server.gets(path).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "*"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
    }
    assert_eq!(server.gets("/switchboard.js").await.header("cache-control"), "no-cache");
    assert_eq!(
        get_page(&server).await.header("access-control-allow-origin"),
        "",
        "the page itself may not be loaded by others"
    );
}
