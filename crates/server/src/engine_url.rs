//! The URL of a database or a bus, which hides its password.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is shown in place of a secret.
pub(crate) const MASK: &str = "(hidden)";

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
    /// Messages and passwords would go to another machine in plain text without `?tls=off`, or the parameters contradict each
    /// other.
    pub(crate) fn bus_servers(&self, ca: bool) -> Result<BusServers, String> {
        let mut urls = Vec::new();
        let mut plain = false;
        for url in self.0.split(',').map(str::trim) {
            // A password may contain `?`; parameters contain no `@`.
            let (url, parameters) = match url.rsplit_once('?') {
                Some((url, parameters)) if !parameters.contains('@') => (url, parameters),
                _ => (url, ""),
            };
            match parameters {
                "" => {}
                "tls=off" => plain = true,
                other => {
                    return Err(format!(
                        "`?{other}` is not a parameter of a bus; the only one is `?tls=off`"
                    ));
                }
            }
            urls.push(url);
        }
        // Servers that NATS announces have no scheme, so one TLS server makes all of them use TLS.
        let tls = ca || urls.iter().any(|url| url.starts_with("tls://"));
        if tls && plain {
            return Err("`?tls=off` means plain text, but `tls://` or `cluster.bus_ca` means TLS".to_owned());
        }
        match urls.iter().map(|url| host(url)).find(|host| !is_loopback(host)) {
            Some(host) if !tls && !plain => Err(format!(
                "messages and passwords would go to {host} in plain text; use tls://, or add `?tls=off` if the network \
                 between the machines is private"
            )),
            _ => Ok(BusServers { urls: urls.into_iter().map(str::to_owned).collect(), tls }),
        }
    }

    pub(crate) fn has_scheme(&self, schemes: &[&str]) -> bool {
        self.0.split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
    }
}

/// The servers of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusServers {
    /// Their URLs without parameters. They hold passwords.
    pub(crate) urls: Vec<String>,
    /// Whether all of them must use TLS.
    pub(crate) tls: bool,
}

/// The host of a server's URL.
fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    match address.strip_prefix('[').and_then(|address| address.split_once(']')) {
        Some((ip, _)) => ip,
        None => address.split([':', '/']).next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl std::fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A password may contain `,` or `?`; PostgreSQL's list of hosts repeats no scheme.
        let postgres = self.has_scheme(&["postgres", "postgresql"]);
        let urls: Vec<_> = if postgres { vec![self.0.as_str()] } else { self.0.split(',').collect() };
        for (index, url) in urls.into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (scheme, rest) =
                url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
            if let Some(scheme) = scheme {
                write!(f, "{scheme}://")?;
            }
            // Without a scheme it may be a list of keywords such as `host=db password=…`.
            if scheme.is_none() && rest.contains('=') {
                f.write_str(MASK)?;
                continue;
            }
            let host = match rest.rsplit_once('@') {
                Some((login, host)) => {
                    match login.split_once(':') {
                        Some((user, _)) => write!(f, "{user}:{MASK}@")?,
                        // A single word is a user for PostgreSQL and a token for NATS.
                        None if postgres => write!(f, "{login}@")?,
                        None => write!(f, "{MASK}@")?,
                    }
                    host
                }
                None => rest,
            };
            match host.split_once('?') {
                Some((host, parameters)) if parameters.contains("password") => {
                    write!(f, "{host}?{MASK}")?;
                }
                _ => f.write_str(host)?,
            }
        }
        Ok(())
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
            "nats://u:p?w@localhost",
            "nats://[::1]:4222",
            "nats://bus:4222?tls=off",
        ] {
            assert_eq!(tls(url, false), Ok(false), "{url}");
        }
        assert_eq!(tls("nats://bus:4222", true), Ok(true));
        assert_eq!(tls("tls://u:p@bus:4222,nats://other", false), Ok(true));
        for url in ["nats://bus:4222", "nats://127.0.0.1,nats://10.0.0.7", "nats://u:p@127.0.0.1@bus"] {
            let refused = tls(url, false).expect_err(url);
            assert!(refused.contains("?tls=off") && !refused.contains("u:p"), "{refused}");
        }
        tls("tls://bus?tls=off", false).expect_err("both");
        tls("nats://bus?tls=maybe", false).expect_err("no such value");
        let servers =
            EngineUrl::new("nats://u:p@a:1?tls=off, nats://b:2").bus_servers(false).expect("servers");
        assert_eq!(servers.urls, ["nats://u:p@a:1", "nats://b:2"]);
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://u:geheim@db:5432/chat", "postgres://u:(hidden)@db:5432/chat"),
            ("postgres://u@a,b/chat?sslmode=require", "postgres://u@a,b/chat?sslmode=require"),
            ("postgres://db/chat?user=u&password=geheim", "postgres://db/chat?(hidden)"),
            (
                "nats://geheim@a:4222,nats://u:geheim@b:4222",
                "nats://(hidden)@a:4222,nats://u:(hidden)@b:4222",
            ),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("host=db user=u password=geheim", "(hidden)"),
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
}
