//! HTTP responses of the server.

use serde_json::Value;

/// An HTTP response whose whole body has been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn to(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, text: answer.text().await.expect("a body") }
    }

    /// Reads the response to a WebSocket handshake, which has no body if the handshake succeeds.
    pub(super) async fn to_handshake(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let upgraded = status == reqwest::StatusCode::SWITCHING_PROTOCOLS;
        let text = if upgraded { String::new() } else { answer.text().await.expect("a body") };
        Self { status: status.as_u16(), headers, text }
    }

    /// The value of a header; empty if the header is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of `content-length`: the length of the body as it was sent, in bytes.
    pub(crate) fn content_length(&self) -> usize {
        self.header("content-length").parse().expect("a length")
    }

    /// The body, parsed as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of the response, parsed as JSON; panics unless the command succeeded.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        assert!(self.text.starts_with(r#"{"type":"ok""#), "{self:?}");
        self.json()
    }

    /// The problem document of an error response. Asserts that it has the form of RFC 9457 and of the documentation.
    pub(crate) fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert_eq!(problem["type"], "about:blank");
        for word in ["title", "detail", "code"] {
            assert!(problem[word].as_str().is_some_and(|text| !text.is_empty()), "{word}: {problem}");
        }
        assert!(problem["retryable"].is_boolean(), "{problem}");
        problem
    }

    /// The error code in the problem document of an error response.
    pub(crate) fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap_or_default().to_owned()
    }
}
