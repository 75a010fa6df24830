//! [`Listing`]: what the hub says a repository holds.

use serde::Deserialize;

use crate::HubError;
use crate::cache::is_commit;
use crate::client::{Client, Failure, escaped_part};
use crate::reference::{Reference, is_inside};

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) entries: Vec<Entry>,
}

/// A file, with as much of it as the hub tells before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path, which stays inside of the repository.
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    /// The name of its contents.
    pub(crate) etag: Option<String>,
}

impl Entry {
    /// The SHA-256 of the contents: the ETag of what Git LFS keeps, which all weights are.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| is_sha256(etag))
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Asks the hub.
    pub(crate) fn ask(client: &Client, reference: &Reference) -> Result<Self, Failure> {
        let (repository, revision) = (reference.repository(), escaped_part(reference.revision()));
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", client.endpoint());
        Self::parse(&client.read(&url)?).map_err(|reason| Failure::Final(HubError::Answer { url, reason }))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !is_commit(&answer.sha) {
            return Err(format!("`{}` is no commit", answer.sha));
        }
        // What is named here becomes a path. A name that would lead elsewhere, or that some system does not have, is no
        // file of a model.
        let inside = answer.siblings.into_iter().filter(|sibling| is_inside(&sibling.rfilename));
        Ok(Self { commit: answer.sha, entries: inside.map(Entry::from).collect() })
    }

    /// The file of that name.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.entries.iter().map(|entry| entry.name.as_str()).collect()
    }
}

impl From<Sibling> for Entry {
    fn from(sibling: Sibling) -> Self {
        let Sibling { rfilename: name, size, blob_id, lfs } = sibling;
        let etag = match &lfs {
            Some(lfs) => lfs.sha256.clone(),
            None => blob_id,
        };
        Self { name, size: lfs.and_then(|lfs| lfs.size).or(size), etag: etag.filter(|etag| is_etag(etag)) }
    }
}

/// Whether an ETag can be the name of a file.
pub(crate) fn is_etag(text: &str) -> bool {
    (8..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(siblings: &str) -> Result<Listing, String> {
        Listing::parse(format!(r#"{{"sha":"{COMMIT}","private":false,"siblings":[{siblings}]}}"#).as_bytes())
    }

    #[test]
    fn files_have_names_sizes_and_sums() {
        let sum = "a".repeat(64);
        let listing = parse(&format!(
            r#"{{"rfilename":"config.json","size":7,"blobId":"{COMMIT}"}},
               {{"rfilename":"x/model.safetensors","size":9,"blobId":"{COMMIT}",
                 "lfs":{{"sha256":"{sum}","size":9,"pointerSize":134}}}},
               {{"rfilename":"bare"}}"#
        ))
        .unwrap();
        assert_eq!(listing.commit, COMMIT);
        let config = listing.entry("config.json").unwrap();
        assert_eq!((config.size, config.etag.as_deref(), config.sha256()), (Some(7), Some(COMMIT), None));
        assert_eq!(listing.entry("x/model.safetensors").unwrap().sha256(), Some(sum.as_str()));
        assert_eq!(listing.entry("bare").unwrap(), &Entry { name: "bare".into(), size: None, etag: None });
    }

    #[test]
    fn what_would_leave_the_cache_is_no_file() {
        for name in ["../x", "/etc/passwd", "a/../../x", "a\\\\b", "C:x", "", "a//b", "a/."] {
            let listing = parse(&format!(r#"{{"rfilename":"{name}"}},{{"rfilename":"a"}}"#)).unwrap();
            assert_eq!(listing.names(), ["a"], "{name}");
        }
        let listing = parse(r#"{"rfilename":"a","blobId":"../../../../x"}"#).unwrap();
        assert_eq!(listing.entries[0].etag, None);
        for text in [r#"{"sha":"../..","siblings":[]}"#, "{}", "<html>", ""] {
            assert!(Listing::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
