//! The WebSocket handshake (RFC 6455 section 4.2).

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headers::{
    Connection, HeaderMapExt as _, SecWebsocketAccept, SecWebsocketKey, SecWebsocketVersion, Upgrade,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use switchboard_protocol::{ErrorCode, SUBPROTOCOL};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::accept::Client;
use super::problem::Problem;
use super::write_timeout::WriteTimeoutStream;
use crate::denial::{Denial, Denied};
use crate::places::Place;
use crate::services::Services;
use crate::session;
use crate::session::socket::{Socket, Stream};
use crate::tls::HandshakeStream;
use switchboard_store::refusal::Refusal;

/// The length of the nonce in `Sec-WebSocket-Key` (RFC 6455 section 4.1).
const NONCE_BYTES: usize = 16;

/// Answers the handshake and starts a session on the connection.
pub(super) async fn upgrade(
    State(services): State<Arc<Services>>,
    Extension(place): Extension<Arc<Place>>,
    Extension(client): Extension<Client>,
    mut request: Request,
) -> Response {
    let (upgrade, response) = match accept_handshake(&mut request) {
        Ok(accepted) => accepted,
        Err(response) => return *response,
    };
    if let Err(problem) = client.count_for_address(&place) {
        return problem.into_response();
    }
    let address = client.address;
    let agent =
        request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).map(Box::from);
    services.clone().tasks.spawn(async move {
        let (Ok(upgraded), tasks) = (upgrade.await, services.tasks.clone()) else { return };
        match take_over::<TcpStream>(upgraded, address) {
            Ok(mut socket) => {
                socket.set_agent(agent);
                tasks.run_until_deadline(Box::pin(session::run(services, socket, Some(place)))).await;
            }
            Err(upgraded) => {
                if let Ok(mut socket) = take_over::<TlsStream<HandshakeStream>>(upgraded, address) {
                    socket.set_agent(agent);
                    tasks.run_until_deadline(Box::pin(session::run(services, socket, Some(place)))).await;
                }
            }
        }
    });
    response
}

/// The response to a valid handshake, and the upgrade that follows it.
pub(crate) fn accept_handshake(request: &mut Request) -> Result<(OnUpgrade, Response), Box<Response>> {
    let accept = check_headers(request.headers())?;
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(Box::new(refuse("this connection cannot become a WebSocket: use HTTP/1.1")));
    };
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let named = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let offers_subprotocol = named.map(str::trim).any(|name| name == SUBPROTOCOL);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.typed_insert(Connection::upgrade());
    headers.typed_insert(Upgrade::websocket());
    headers.typed_insert(accept);
    if offers_subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok((upgrade, response))
}

/// The WebSocket on an upgraded connection, if the connection has this transport.
pub(crate) fn take_over<S: Stream + Send + 'static>(
    upgraded: Upgraded,
    address: IpAddr,
) -> Result<Box<Socket<S>>, Upgraded> {
    let parts = upgraded.downcast::<TokioIo<WriteTimeoutStream<S>>>()?;
    Ok(Box::new(Socket::new(parts.io.into_inner().into_inner(), parts.read_buf.into(), address)))
}

/// Checks the handshake's headers and computes `Sec-WebSocket-Accept`.
fn check_headers(headers: &HeaderMap) -> Result<SecWebsocketAccept, Box<Response>> {
    let contains = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !contains(header::UPGRADE, "websocket") || !contains(header::CONNECTION, "upgrade") {
        let mut response = refuse_upgrade("this is a WebSocket: connect with ws://, as `websocat` does");
        response.headers_mut().typed_insert(Upgrade::websocket());
        return Err(Box::new(response));
    }
    if !contains(header::SEC_WEBSOCKET_VERSION, "13") {
        let mut response = refuse_upgrade("the WebSocket version is 13 (RFC 6455)");
        response.headers_mut().typed_insert(SecWebsocketVersion::V13);
        return Err(Box::new(response));
    }
    let nonce = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok());
    match headers.typed_get::<SecWebsocketKey>() {
        Some(key) if nonce.is_some_and(|nonce| nonce.len() == NONCE_BYTES) => Ok(key.into()),
        _ => Err(Box::new(refuse("Sec-WebSocket-Key is 16 bytes in base64"))),
    }
}

fn refuse_upgrade(message: &'static str) -> Response {
    let problem =
        Problem::from(Denied::new(Denial::MalformedHandshake, Refusal::new(ErrorCode::BadFrame, message)));
    problem.with_status(StatusCode::UPGRADE_REQUIRED).into_response()
}

fn refuse(message: &'static str) -> Response {
    Problem::from(Denied::new(Denial::MalformedHandshake, Refusal::new(ErrorCode::BadFrame, message)))
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_matches_the_example_of_the_rfc() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let accept = HeaderMap::from_iter([(
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        )]);
        assert_eq!(check_headers(&headers).ok(), accept.typed_get());
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhl"));
        assert_eq!(check_headers(&headers).expect_err("short").status(), StatusCode::BAD_REQUEST);
    }
}
