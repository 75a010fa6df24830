//! What can go wrong with a model on the hub.

use std::io;
use std::path::PathBuf;

/// How to give a token.
const TOKEN: &str = "give a token of that account: set HF_TOKEN, or log in with `hf auth login`";

/// The same for a repository that may not be there at all.
const PRIVATE: &str = "or give a token of an account that may read it: set HF_TOKEN, or log in with `hf auth login`";

/// A model that cannot be had from the hub; every variant names it, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is no reference.
    #[error(
        "`{text}` names no model on the hub: {reason}; write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FILE.gguf"
    )]
    Reference {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A variable of the environment is not usable.
    #[error("the environment variable {name} is {reason}")]
    Environment {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// There is no such repository, or none that may be seen.
    #[error("there is no model {repository} on {endpoint}, or it is private: check its name, {}", if *.token { "and that the account of the token sees it" } else { PRIVATE })]
    NoRepository {
        /// `OWNER/NAME`.
        repository: String,
        /// The address of the hub.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },

    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision `{revision}`: {endpoint}/{repository}/tree/main lists its branches and tags")]
    NoRevision {
        /// `OWNER/NAME`.
        repository: String,
        /// What was asked for.
        revision: String,
        /// The address of the hub.
        endpoint: String,
    },

    /// The authors ask for something before they let anybody read.
    #[error("{repository} is gated: accept its terms at {endpoint}/{repository}, and {}", if *.token { "wait until the account of the token that was given is let in" } else { TOKEN })]
    Gated {
        /// `OWNER/NAME`.
        repository: String,
        /// The address of the hub.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },

    /// The token is not valid.
    #[error(
        "{endpoint} does not accept the token from {origin} (HTTP {status}): it is mistyped, expired, or not for this model; make one at {endpoint}/settings/tokens"
    )]
    Token {
        /// The address of the hub.
        endpoint: String,
        /// Where it came from.
        origin: String,
        /// The answer.
        status: u16,
    },

    /// The hub refuses for another reason.
    #[error("{url} was refused (HTTP {status}){}", if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
        /// The hub's own words.
        message: String,
    },

    /// The repository has no such file.
    #[error("{repository} has no file `{file}` at {revision}{}", list("; its GGUF files are ", .others))]
    NoFile {
        /// `OWNER/NAME`.
        repository: String,
        /// The revision.
        revision: String,
        /// What was asked for.
        file: String,
        /// References of the GGUF files that there are.
        others: Vec<String>,
    },

    /// Weights are in GGUF files only, of which each is a model.
    #[error("{repository} has GGUF files only, and each is a model: name one of {}", list("", .files))]
    OnlyGguf {
        /// `OWNER/NAME`.
        repository: String,
        /// References of the files.
        files: Vec<String>,
    },

    /// A GGUF file is one of several that belong together.
    #[error("`{file}` of {repository} is a part of a model in several GGUF files, which are not read: take one that is whole{}", list(": ", .others))]
    SplitGguf {
        /// `OWNER/NAME`.
        repository: String,
        /// The part.
        file: String,
        /// References of files that are whole.
        others: Vec<String>,
    },

    /// There is nothing in the repository that could be a model.
    #[error("{repository} has no weights that are read here: expected model.safetensors, or model.safetensors.index.json and its shards, or pytorch_model.bin, or GGUF files{}", list("; found ", .found))]
    NoWeights {
        /// `OWNER/NAME`.
        repository: String,
        /// Some of the files that there are.
        found: Vec<String>,
    },

    /// An index names a shard that the repository lacks.
    #[error(
        "`{index}` of {repository} names {shard}, which is not there: the repository is not complete, choose another revision"
    )]
    MissingShard {
        /// `OWNER/NAME`.
        repository: String,
        /// The index.
        index: String,
        /// The shard.
        shard: String,
    },

    /// The hub cannot be reached, and there is no copy.
    #[error("{endpoint} cannot be reached ({reason}), and {} has no whole copy of {reference}: connect, or set HF_ENDPOINT to a mirror, or HF_HOME to where a copy is", .cache.display())]
    Unreachable {
        /// The address of the hub.
        endpoint: String,
        /// Why.
        reason: String,
        /// What was asked for.
        reference: String,
        /// Where a copy was looked for.
        cache: PathBuf,
    },

    /// A download broke off more often than it was taken up again.
    #[error(
        "the download of {file} broke off at {have} of {size} bytes: {reason}; what is there is kept, and the same command goes on from it"
    )]
    Broken {
        /// The file.
        file: String,
        /// Bytes that are there.
        have: u64,
        /// Bytes in all.
        size: u64,
        /// Why.
        reason: String,
    },

    /// A file has another length than the hub says.
    #[error(
        "{file} should have {expected} bytes, and {found} were sent: what came was thrown away; run the command again, and if it fails again, its source is damaged"
    )]
    Length {
        /// The file.
        file: String,
        /// As the hub lists it.
        expected: u64,
        /// As it is sent.
        found: u64,
    },

    /// A file has another content than the hub says.
    #[error("{file} was damaged on its way (its SHA-256 is not {expected}): it was thrown away; run the command again")]
    Checksum {
        /// The file.
        file: String,
        /// As the hub lists it.
        expected: String,
    },

    /// The answer of the server makes no sense.
    #[error("the answer of {url} makes no sense: {reason}; is there a hub at this address?")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The operating system refused to read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The operating system refused to write, for example because the disk is full.
    #[error("cannot write {}: {source}; what was downloaded is kept: make room, or set HF_HOME to a folder on another disk, and run the command again", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// Somebody asked to stop.
    #[error("interrupted; what was downloaded is kept, and the same command goes on from it")]
    Interrupted,
}

/// Some of `names` behind `prefix`; nothing if there are none.
fn list(prefix: &str, names: &[String]) -> String {
    const MOST: usize = 12;
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match names {
        [] => String::new(),
        _ => format!("{prefix}{}{more}", names[..names.len().min(MOST)].join(", ")),
    }
}
