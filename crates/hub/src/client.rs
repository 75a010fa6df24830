//! [`Client`]: one request at a time, and the token to the hub alone.

use std::fs;
use std::io::Read;

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::{HubError, Settings, Token};

/// Most addresses that one request is sent on to.
const REDIRECTS: usize = 10;

/// Most bytes of an answer that is read as a whole: the list of a repository with a hundred thousand files.
const LONGEST: u64 = 64 << 20;

/// Most letters of the hub's own words in an error.
const WORDS: usize = 300;

/// Blocking requests to one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody answers, or somebody says to come back later; asking again may help.
    Unreachable(String),
    /// The answer is no.
    Refused {
        status: u16,
        /// The hub's word for it, `GatedRepo` for example.
        code: String,
        /// The hub's own words.
        message: String,
    },
    /// Asking again does not help.
    Final(HubError),
}

/// An answer, and what the hub itself said of the file before it sent the request on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// The headers of the hub's own answers, the first one first.
    own: Vec<HeaderMap>,
}

impl Answer {
    /// What the hub says of the file under one of `names`; the first name that it uses.
    pub(crate) fn said(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.own.iter().find_map(|headers| headers.get(*name)?.to_str().ok()))
    }

    /// Where the body begins in the file, and the length of the whole file, as far as the answer says.
    pub(crate) fn extent(&self) -> (u64, Option<u64>) {
        let text = |name| self.response.headers().get(name).and_then(|value| value.to_str().ok());
        if self.response.status().as_u16() == 206 {
            // `bytes 100-199/200`
            let range = text(CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes ")?.split_once('/'));
            let Some((range, size)) = range else { return (0, None) };
            let start = range.split_once('-').and_then(|(start, _)| start.parse().ok());
            return (start.unwrap_or(u64::MAX), size.parse().ok());
        }
        (0, text(CONTENT_LENGTH).and_then(|length| length.parse().ok()))
    }
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let mut tls = TlsConfig::builder();
        if let Some(file) = &settings.certificates {
            let failed = |source| HubError::Read { path: file.clone(), source };
            let text = fs::read(file).map_err(failed)?;
            let certificates: Vec<Certificate<'static>> = parse_pem(&text)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            tls = tls.root_certs(RootCerts::from(certificates));
        }
        let silence = Some(settings.patience.silence);
        let mut config = Agent::config_builder()
            .user_agent(concat!("quench/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            // Addresses are followed here, where it is known who may see the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_per_read(silence)
            .timeout_recv_response(silence);
        let host = settings.endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        if host.is_some_and(|host| host == "localhost" || host.starts_with("127.")) {
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().into(), endpoint: settings.endpoint.clone(), token: settings.token.clone() })
    }

    /// The address of the hub.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Who asks.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Asks for the bytes of `url` from `start` on.
    pub(crate) fn get(&self, url: &str, start: u64) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut own = Vec::new();
        for _ in 0..=REDIRECTS {
            let trusted = origin(&url).is_some() && origin(&url) == origin(&self.endpoint);
            let mut request = self.agent.get(&url).header(ACCEPT_ENCODING, "identity");
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| trusted) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
            }
            let mut response = request.call().map_err(|error| failure(&url, error))?;
            if trusted {
                own.push(response.headers().clone());
            }
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(Answer { response, own }),
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    url = next(&url, location.unwrap_or_default()).map_err(Failure::Final)?;
                }
                status @ (408 | 429 | 500..) => {
                    return Err(Failure::Unreachable(format!("HTTP {status}: {}", words(&mut response))));
                }
                // An address that the hub made for this once has expired; it makes another one.
                status if !trusted => {
                    let host = origin(&url).map(|(_, host, _)| host).unwrap_or_default();
                    return Err(Failure::Unreachable(format!("{host} says HTTP {status}: {}", words(&mut response))));
                }
                status => {
                    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
                    let code = header("x-error-code").unwrap_or_default().to_owned();
                    let message = header("x-error-message").map(str::to_owned);
                    let message = message.unwrap_or_else(|| words(&mut response));
                    return Err(Failure::Refused { status, code, message });
                }
            }
        }
        let reason = format!("it sends on more than {REDIRECTS} times");
        Err(Failure::Final(HubError::Answer { url, reason }))
    }

    /// A small answer as a whole.
    pub(crate) fn read(&self, url: &str) -> Result<Vec<u8>, Failure> {
        let mut answer = self.get(url, 0)?;
        let mut bytes = Vec::new();
        let body = answer.response.body_mut().as_reader();
        match body.take(LONGEST + 1).read_to_end(&mut bytes) {
            Err(error) => Err(Failure::Unreachable(error.to_string())),
            Ok(_) if bytes.len() as u64 > LONGEST => {
                let reason = format!("it is longer than {LONGEST} bytes");
                Err(Failure::Final(HubError::Answer { url: url.to_owned(), reason }))
            }
            Ok(_) => Ok(bytes),
        }
    }
}

/// Scheme, host and port: who is asked.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Where `location` leads from `url`. What is encrypted stays so.
fn next(url: &str, location: &str) -> Result<String, HubError> {
    let refused = |reason: String| HubError::Answer { url: url.to_owned(), reason };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(refused("it is no address".to_owned()));
    };
    let next = match location {
        _ if location.contains("://") && !location.starts_with('/') => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => {
            format!("{scheme}://{}{location}", rest.split(['/', '?', '#']).next().unwrap_or(rest))
        }
        _ => return Err(refused(format!("it sends on to `{location}`, which is no address"))),
    };
    match origin(&next) {
        Some((to, ..)) if to == "https" || (to == "http" && scheme == "http") => Ok(next),
        _ => Err(refused(format!("it sends on to `{next}`, which is not encrypted"))),
    }
}

/// What went wrong on the way, in words; a fault of the address or of a certificate stays one.
fn failure(url: &str, error: ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Protocol(_)
        | ureq::Error::LargeResponseHeader(..) => {
            Failure::Final(HubError::Answer { url: url.to_owned(), reason: error.to_string() })
        }
        error => Failure::Unreachable(error.to_string()),
    }
}

/// The first line of an answer, if it is text for people.
fn words(response: &mut Response<Body>) -> String {
    let mut bytes = Vec::new();
    let _ = response.body_mut().as_reader().take(64 << 10).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let said = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|json| json.get("error").and_then(|error| error.as_str()).map(str::to_owned));
    let is_page = text.trim_start().starts_with('<');
    let text = said.unwrap_or_else(|| if is_page { String::new() } else { text.into_owned() });
    let line = text.lines().next().unwrap_or_default().trim();
    let kept: String = line.chars().filter(|c| !c.is_control()).take(WORDS).collect();
    if kept.is_empty() { "no reason is given".to_owned() } else { kept }
}

/// A path for an address: all that is not plain is written as `%` and two digits, but for the slashes between its parts.
pub(crate) fn escaped(path: &str) -> String {
    path.split('/').map(escaped_part).collect::<Vec<_>>().join("/")
}

/// The same for one part, in which a slash is no plain letter either.
pub(crate) fn escaped_part(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_on() {
        let url = "https://hub/a/b?x";
        for (location, expected) in [
            ("/c/d", "https://hub/c/d"),
            ("https://cdn/x?y", "https://cdn/x?y"),
            ("//cdn/x", "https://cdn/x"),
            ("/login?next=https://hub", "https://hub/login?next=https://hub"),
        ] {
            assert_eq!(next(url, location).unwrap(), expected);
        }
        for location in ["http://hub/c", "ftp://hub/c", "", "c", "file:///etc/passwd"] {
            assert!(next(url, location).is_err(), "{location}");
        }
        assert_eq!(next("http://hub:80/a", "http://cdn/x").unwrap(), "http://cdn/x");
    }

    #[test]
    fn who_is_asked() {
        assert_eq!(origin("https://Hub/x"), origin("https://hub:443"));
        for other in ["http://hub", "https://hub:444", "https://hub.evil", "https://evil/hub"] {
            assert_ne!(origin("https://hub"), origin(other), "{other}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/ü?.gguf"), "a%20b/%C3%BC%3F.gguf");
        assert_eq!(escaped_part("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
