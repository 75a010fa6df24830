//! [`Settings`]: where the hub is, where models are kept, and who asks.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Cache, HubError};

/// The hub that everybody means.
const ENDPOINT: &str = "https://huggingface.co";

/// How to reach a hub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address, without a slash at the end.
    pub endpoint: String,
    /// Where models are kept.
    pub cache: Cache,
    /// Who asks, where that is needed.
    pub token: Option<Token>,
    /// Ask nobody: what is kept is used, or nothing.
    pub offline: bool,
    /// A file of certificates (PEM) to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// When to give up.
    pub patience: Patience,
}

/// A secret, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    origin: String,
}

impl Token {
    /// The token `secret`, and where it came from, for errors.
    pub fn new(secret: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { secret: secret.into(), origin: origin.into() }
    }

    /// Where it came from: `HF_TOKEN`, or a file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(of {})", self.origin)
    }
}

/// When a connection counts as broken, and how often it is taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts one after the other that may bring nothing new.
    pub attempts: u32,
    /// The pause before the second attempt; twice as long before each one after it.
    pub pause: Duration,
    /// How long nothing may come.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 5, pause: Duration::from_secs(1), silence: Duration::from_secs(30) }
    }
}

impl Settings {
    /// What the variables say that all programs for the hub read: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`,
    /// `HF_HUB_CACHE`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`, and `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`HubError::Environment`] for one that is not usable; [`HubError::Read`] if a file of a token is there and cannot be
    /// read.
    pub fn from_environment() -> Result<Self, HubError> {
        Self::from_variables(&|name| env::var_os(name), env::home_dir())
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Result<Self, HubError> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(HubError::Environment { name, reason: "not valid Unicode".to_owned() }),
        };
        let path = |name: &str| set(name).map(PathBuf::from);

        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let address = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if address.is_none_or(|host| host.is_empty() || host.contains(['?', '#', '@', ' '])) {
            let reason = format!("`{endpoint}`, which is no address: expected one as {ENDPOINT}");
            return Err(HubError::Environment { name: "HF_ENDPOINT", reason });
        }

        let home = match (path("HF_HOME"), path("XDG_CACHE_HOME"), user) {
            (Some(home), ..) => home,
            (None, Some(caches), _) => caches.join("huggingface"),
            (None, None, Some(user)) => user.join(".cache").join("huggingface"),
            (None, None, None) => {
                let reason = "not set, and there is no home folder to keep models in: set it to a folder".to_owned();
                return Err(HubError::Environment { name: "HF_HOME", reason });
            }
        };
        let given = text("HF_TOKEN")?.map(|secret| Token::new(secret, "HF_TOKEN"));
        let kept = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            match fs::read_to_string(&file) {
                Ok(text) => Ok(Some(text.trim())
                    .filter(|text| !text.is_empty())
                    .map(|text| Token::new(text, file.display().to_string()))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(HubError::Read { path: file, source }),
            }
        };
        let token = given.map_or_else(kept, |token| Ok(Some(token)))?;
        // What is not a letter of a header would end it early.
        if let Some(token) = token.as_ref().filter(|token| !token.secret.bytes().all(|byte| byte.is_ascii_graphic())) {
            let reason = format!("no token, or {} holds none: a token has letters and digits only", token.origin);
            return Err(HubError::Environment { name: "HF_TOKEN", reason });
        }
        let offline = text("HF_HUB_OFFLINE")?;
        Ok(Self {
            endpoint,
            cache: Cache::new(path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"))),
            token,
            offline: offline
                .is_some_and(|word| ["1", "true", "yes", "on"].iter().any(|yes| word.eq_ignore_ascii_case(yes))),
            certificates: path("SSL_CERT_FILE"),
            patience: Patience::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let get = |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.into());
        Settings::from_variables(&get, Some("/nowhere/user".into()))
    }

    #[test]
    fn the_variables_of_the_hub() {
        let plain = of(&[]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline, &plain.token), ("https://huggingface.co", false, &None));
        for (variables, expected) in [
            (&[][..], "/nowhere/user/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
        ] {
            assert_eq!(of(variables).unwrap().cache.folder(), Path::new(expected), "{variables:?}");
        }
        assert_eq!(of(&[("HF_ENDPOINT", "http://mirror:8080/hub/")]).unwrap().endpoint, "http://mirror:8080/hub");
        for word in ["1", "ON", "True"] {
            assert!(of(&[("HF_HUB_OFFLINE", word)]).unwrap().offline);
        }
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        for wrong in ["huggingface.co", "ftp://x", "https://", "https://user@host"] {
            let error = of(&[("HF_ENDPOINT", wrong)]).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_token_is_given_or_kept_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).unwrap().token, None);
        fs::write(folder.path().join("token"), "hf_kept\n").unwrap();
        let kept = of(&[("HF_HOME", home)]).unwrap().token.unwrap();
        assert!(kept.secret() == "hf_kept" && kept.origin().ends_with("token"));
        let given = of(&[("HF_HOME", home), ("HF_TOKEN", " hf_given ")]).unwrap();
        assert_eq!(given.token.as_ref().unwrap().secret(), "hf_given");
        let shown = format!("{given:?}");
        assert!(shown.contains("HF_TOKEN") && !shown.contains("hf_given"), "{shown}");
        let error = of(&[("HF_HOME", home), ("HF_TOKEN", "a\r\nHost: b")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("Host"), "{error}");
    }
}
