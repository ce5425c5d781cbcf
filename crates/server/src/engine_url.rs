//! The URL of a database or a bus, which hides its password.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;

/// The text that replaces a secret where a URL is shown.
pub(crate) const MASK: &str = "(hidden)";

/// The error text for a malformed URL of the bus.
const BUS_URL_FORM: &str =
    "a URL of the bus is nats://HOST:PORT or tls://HOST:PORT; in a password, @ is written as %40, and so on";

/// URL parameters whose values are shown, because they never contain a secret.
const PUBLIC_PARAMETERS: [&str; 6] =
    ["sslmode", "connect_timeout", "application_name", "target_session_attrs", "keepalives", "tls"];

/// The URL of a database or a bus. Its debug and serialised forms mask the password.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl(String);

impl EngineUrl {
    /// Wraps a URL without checking it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for connecting.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The servers of a NATS bus. `ca` says whether a CA certificate is configured.
    ///
    /// # Errors
    /// Messages and passwords would be sent to another machine in plain text although the URL has no `?tls=off`, or the parameters
    /// contradict each other.
    pub(crate) fn bus_servers(&self, ca: bool) -> Result<BusServers, String> {
        let (mut urls, mut plain) = (Vec::new(), false);
        for url in self.0.split(',').map(str::trim) {
            // The servers after the first one may have no scheme.
            let named = if url.contains("://") { url.to_owned() } else { format!("nats://{url}") };
            let mut server = Url::parse(&named).map_err(|_| BUS_URL_FORM.to_owned())?;
            match server.query() {
                None | Some("") => {}
                Some("tls=off") => plain = true,
                Some(_) => return Err("the only parameter of a bus is `?tls=off`".to_owned()),
            }
            server.set_query(None);
            urls.push(server);
        }
        // NATS announces further servers without a scheme. If one server uses TLS, all of them must.
        let tls = ca || urls.iter().any(|url| url.scheme() == "tls");
        if tls && plain {
            return Err("`?tls=off` means plain text, but `tls://` or `cluster.bus_ca` means TLS".to_owned());
        }
        match urls.iter().map(|url| url.host_str().unwrap_or_default()).find(|host| !is_loopback(host)) {
            Some(host) if !tls && !plain => Err(format!(
                "messages and passwords would go to {host} in plain text; use tls://, or add `?tls=off` if the network \
                 between the machines is private"
            )),
            _ => Ok(BusServers { urls, tls }),
        }
    }

    /// Refuses a database URL whose password contains an `@`: the driver ends the password at its first `@`, and would take the
    /// rest of the password for a host name.
    ///
    /// # Errors
    /// The password has an `@`.
    pub(crate) fn check_password(&self) -> Result<(), String> {
        let hosts = self.0.split_once('@').map_or("", |(_, rest)| rest);
        if hosts.split(['/', '?']).next().is_some_and(|hosts| hosts.contains('@')) {
            return Err("the password contains @; write it as %40".to_owned());
        }
        Ok(())
    }

    pub(crate) fn has_scheme(&self, schemes: &[&str]) -> bool {
        self.0.split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
    }
}

/// The servers of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusServers {
    /// The URLs of the servers, without parameters. They may contain passwords.
    pub(crate) urls: Vec<Url>,
    /// Whether all servers must use TLS.
    pub(crate) tls: bool,
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text has only characters that are plausible in the name of a user, host or database, or in a value, so that it can be
/// shown.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// Whether a text is `host` or `host:port`.
fn is_address(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, port)) if host.parse::<IpAddr>().is_ok() => ("", port),
        Some(_) => return false,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let is_port = |port: &str| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    // PostgreSQL takes a host that begins with `%2F` as the path of a socket.
    is_plain(&host.replace('%', "")) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Whether no parameter of the URL can contain a secret.
fn are_public(parameters: &str) -> bool {
    parameters.split('&').all(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        PUBLIC_PARAMETERS.contains(&name) && is_plain(value)
    })
}

/// Returns a URL without its secrets; `None` if it is not certain which part of it is a secret.
fn show_without_secrets(url: &str, postgres: bool) -> Option<String> {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (login, rest) = match rest.rsplit_once('@') {
        // The `@` may belong to the password in a parameter, or to a path.
        Some((login, _)) if login.contains(['/', '#']) || (login.contains('?') && login.contains('=')) => {
            return None;
        }
        // Without a scheme, the text before the `@` may be the beginning of a password.
        Some(_) if scheme.is_empty() => return None,
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let login = login.map(|login| match login.split_once(':') {
        Some((user, _)) if is_plain(user) => format!("{user}:{MASK}@"),
        // A single word is a user for PostgreSQL and a token for NATS.
        None if postgres && is_plain(login) => format!("{login}@"),
        _ => format!("{MASK}@"),
    });
    let (place, parameters) = rest.split_once('?').map_or((rest, None), |(place, rest)| (place, Some(rest)));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    if !hosts.split(',').all(is_address) || !is_plain(database) {
        return None;
    }
    let parameters = parameters.map(|all| format!("?{}", if are_public(all) { all } else { MASK }));
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    Some(format!("{scheme}{}{place}{}", login.unwrap_or_default(), parameters.unwrap_or_default()))
}

impl std::fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((scheme, _)) = self.0.split_once("://").filter(|(scheme, _)| is_plain(scheme)) else {
            // The text is a list of keywords such as `host=db password=…`, or a password alone, so all of it is masked.
            return f.write_str(MASK);
        };
        // A PostgreSQL URL with several hosts has only one scheme, so it is not split at commas.
        let postgres = self.has_scheme(&["postgres", "postgresql"]);
        let urls: Vec<_> = if postgres { vec![self.0.as_str()] } else { self.0.split(',').collect() };
        let shown: Option<Vec<_>> =
            urls.into_iter().map(|url| show_without_secrets(url.trim(), postgres)).collect();
        match shown {
            Some(shown) => f.write_str(&shown.join(",")),
            None => write!(f, "{scheme}://{MASK}"),
        }
    }
}

impl std::fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for EngineUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EngineUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // serde's own message would contain the value.
        let url = String::deserialize(d).map_err(|_| de::Error::custom("a URL is a string"))?;
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_to_another_machine_needs_tls_off_in_the_url() {
        let tls = |url: &str, ca: bool| EngineUrl::new(url).bus_servers(ca).map(|servers| servers.tls);
        for url in [
            "nats://127.0.0.1:4222",
            "nats://u:p%3Fw@localhost",
            "nats://[::1]:4222",
            "nats://bus:4222?tls=off",
        ] {
            assert_eq!(tls(url, false), Ok(false), "{url}");
        }
        assert_eq!(tls("nats://bus:4222", true), Ok(true));
        assert_eq!(tls("tls://u:p@bus:4222,nats://other", false), Ok(true));
        for url in ["nats://bus:4222", "nats://127.0.0.1,nats://10.0.0.7", "nats://u:p%40127.0.0.1@bus"] {
            let refused = tls(url, false).expect_err(url);
            assert!(refused.contains("?tls=off") && !refused.contains("u:p"), "{refused}");
        }
        tls("tls://bus?tls=off", false).expect_err("both");
        tls("nats://bus?tls=maybe", false).expect_err("no such value");
        let servers =
            EngineUrl::new("nats://u:p@a:1?tls=off, nats://b:2").bus_servers(false).expect("servers");
        let urls: Vec<_> = servers.urls.iter().map(Url::as_str).collect();
        assert_eq!(urls, ["nats://u:p@a:1", "nats://b:2"]);
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://u:geheim@db:5432/chat", "postgres://u:(hidden)@db:5432/chat"),
            ("postgres://u@a,b/chat?sslmode=require", "postgres://u@a,b/chat?sslmode=require"),
            ("postgres://u:geheim@[::1]:5432/chat", "postgres://u:(hidden)@[::1]:5432/chat"),
            ("postgres://u:geheim@%2Frun%2Fdb/chat", "postgres://u:(hidden)@%2Frun%2Fdb/chat"),
            ("postgres://db/chat?user=u&password=geheim", "postgres://db/chat?(hidden)"),
            ("postgres://db/chat?sslmode=require&pass%77ord=geheim", "postgres://db/chat?(hidden)"),
            (
                "nats://geheim@a:4222,nats://u:geheim@b:4222",
                "nats://(hidden)@a:4222,nats://u:(hidden)@b:4222",
            ),
            ("nats://127.0.0.1:4222,b:4222", "nats://127.0.0.1:4222,b:4222"),
            ("postgres://u:geh?eim@db/chat", "postgres://u:(hidden)@db/chat"),
            (
                "postgres://u:geh,eim@a,b/chat?sslmode=require",
                "postgres://u:(hidden)@a,b/chat?sslmode=require",
            ),
            ("postgres://u:geh@eim@db/chat", "postgres://u:(hidden)@db/chat"),
            ("nats://u:geh?eim@a:4222", "nats://u:(hidden)@a:4222"),
        ] {
            assert_eq!(EngineUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", EngineUrl::new(url)), shown);
        }
    }

    #[test]
    fn no_part_of_a_password_is_shown_in_a_url_of_another_form() {
        for url in [
            "host=db user=u password=geheim",
            "host = db password = 'geheim'",
            "geheim",
            "u:geheim@db/chat",
            "//u:geheim@db/chat",
            "postgres:u:geheim@db",
            "postgres:/u:geheim@db/chat",
            "postgres://u:geheim",
            "postgres://u:geheim/chat",
            "postgres://u:x/geheim@db/chat",
            "postgres://u:x#geheim@db/chat",
            "postgres://u:x%40geheim/chat",
            "postgres://db/chat?password=x@geheim",
            "postgres://u@db/chat?password=geheim@x",
            "postgres://db/chat?PASSWORD=geheim",
            "postgres://db/chat?passfile=geheim",
            "postgres://db/chat?options=geheim",
            "postgres://db/chat?application_name=a b geheim",
            "postgres://db/chat geheim",
            "postgres://db:5432:geheim/chat",
            "postgres://[::1]geheim/chat",
            "nats://u:x,geheim@a:4222",
            "nats://u:1,geheim@a:4222",
            "nats://geheim,x@a:4222",
            "nats://u:geheim,nats://a:4222",
            "nats://a:4222?token=geheim",
            "tls://u:geheim",
            "mysql://u:geheim@db",
        ] {
            let shown = EngineUrl::new(url).to_string();
            assert!(!shown.contains("geheim") && shown.contains(MASK), "{url}: {shown}");
        }
    }

    #[test]
    fn a_password_with_an_at_sign_must_be_encoded() {
        for (url, ok) in [
            ("postgres://u:p@db/chat", true),
            ("postgres://u:p%40q@db/chat", true),
            ("postgres://db/chat?password=x@y", true),
            ("postgres://u:p@db/chat?application_name=x@y", true),
            ("postgres://u:p@q@db/chat", false),
        ] {
            assert_eq!(EngineUrl::new(url).check_password().is_ok(), ok, "{url}");
        }
    }
}
