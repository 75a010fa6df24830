//! [`Hub`]: from the name of a model to its files on this machine.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::make_parent;
use crate::client::{Answer, Client, Failure, escaped};
use crate::download::{Download, Step, go_on, length, wait};
use crate::files::{self, Choice};
use crate::listing::{Entry, Listing, is_etag};
use crate::{HubError, Reference, Settings};

/// What a download in progress is called; the name is that of other programs whose parts are beginnings too.
const PART: &str = "part";

/// A hub, and the cache beside it.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    settings: Settings,
}

/// What [`Hub::fetch`] is doing, for progress bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something is to be downloaded.
    Begin {
        /// Files that are not there yet.
        files: usize,
        /// Their bytes, those of earlier attempts included.
        bytes: u64,
    },
    /// So many of these bytes are there.
    Bytes {
        /// Over all files.
        done: u64,
        /// The file under way.
        file: &'a str,
    },
    /// The connection broke, and is taken up again.
    Again {
        /// The file under way.
        file: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// Another process downloads this file; it is waited for.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// The hub was not asked, and what is kept of an earlier download is used.
    Kept {
        /// The commit that is kept.
        commit: &'a str,
        /// Why it was not asked.
        reason: &'a str,
    },
}

/// Called with every [`Event`]; breaking stops the download where it goes on another time.
pub type Observe<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

impl Hub {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`HubError::Read`] if the certificates that are to be trusted cannot be read.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        Ok(Self { client: Client::new(&settings)?, settings })
    }

    /// Downloads what the model needs and is not there yet: its folder, or its GGUF file.
    ///
    /// The hub is asked for the newest state of the revision; if it cannot be reached, what is kept of it is used
    /// ([`Event::Kept`]). Files come one after the other, each under its name only when it is whole. Several processes may
    /// ask for one model.
    ///
    /// # Errors
    /// Every [`HubError`] but [`HubError::Reference`] and [`HubError::Environment`].
    pub fn fetch(&self, reference: &Reference, observe: Observe<'_>) -> Result<PathBuf, HubError> {
        if self.settings.offline {
            return self.kept(reference, "HF_HUB_OFFLINE is set", observe);
        }
        let listing = match Listing::ask(&self.client, reference) {
            Ok(listing) => listing,
            Err(Failure::Unreachable(reason)) => return self.kept(reference, &reason, observe),
            Err(Failure::Refused { status, code, message }) => {
                return Err(self.refused(reference, status, &code, message));
            }
            Err(Failure::Final(error)) => return Err(error),
        };
        let repository = reference.repository();
        let Choice { files, index } = files::choose(reference, &listing.names())?;
        let snapshot = self.settings.cache.snapshot(repository, &listing.commit);
        let mut wanted: Vec<&Entry> = files.iter().filter_map(|name| listing.entry(name)).collect();
        if let Some(index) = &index {
            // It is small, and only with it is known how much is to come.
            let entry: Vec<&Entry> = listing.entry(index).into_iter().collect();
            self.take(reference, &listing.commit, &entry, &mut |event| match event {
                Event::Begin { .. } | Event::Bytes { .. } => ControlFlow::Continue(()),
                event => observe(event),
            })?;
            for shard in shards(&snapshot.join(index))? {
                let missing = || HubError::MissingShard {
                    repository: repository.to_owned(),
                    index: index.clone(),
                    shard: shard.clone(),
                };
                wanted.push(listing.entry(&shard).ok_or_else(missing)?);
            }
        }
        self.take(reference, &listing.commit, &wanted, observe)?;
        // The last step: where the network is down, a branch is what was last there as a whole.
        self.settings.cache.remember(repository, reference.revision(), &listing.commit)?;
        Ok(reference.file().map_or_else(|| snapshot.clone(), |file| snapshot.join(file)))
    }

    /// What an earlier download left, if it is whole.
    fn kept(&self, reference: &Reference, reason: &str, observe: Observe<'_>) -> Result<PathBuf, HubError> {
        let Settings { endpoint, cache, .. } = &self.settings;
        let found = cache.commit(reference.repository(), reference.revision()).and_then(|commit| {
            let path = whole(&cache.snapshot(reference.repository(), &commit), reference)?;
            Some((commit, path))
        });
        let Some((commit, path)) = found else {
            return Err(HubError::Unreachable {
                endpoint: endpoint.clone(),
                reason: reason.to_owned(),
                reference: reference.to_string(),
                cache: cache.folder().to_owned(),
            });
        };
        go_on(observe(Event::Kept { commit: &commit, reason }))?;
        Ok(path)
    }

    /// Downloads those of the files that are not in the snapshot yet.
    fn take(
        &self,
        reference: &Reference,
        commit: &str,
        entries: &[&Entry],
        observe: Observe<'_>,
    ) -> Result<(), HubError> {
        let repository = reference.repository();
        let snapshot = self.settings.cache.snapshot(repository, commit);
        let mut missing = VecDeque::new();
        for entry in entries.iter().filter(|entry| !snapshot.join(&entry.name).exists()) {
            missing.push_back(self.identified(reference, commit, entry)?);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let bytes = missing.iter().map(|file| file.size).sum();
        go_on(observe(Event::Begin { files: missing.len(), bytes }))?;
        let mut done = 0;
        while let Some(file) = missing.pop_front() {
            self.download(reference, &file, done, observe)?;
            self.settings.cache.link(repository, commit, &file.name, &file.etag)?;
            done += file.size;
            go_on(observe(Event::Bytes { done, file: &file.name }))?;
        }
        Ok(())
    }

    /// A file with its length and the name of its contents: from the list, or, where a mirror lists neither, from the hub's
    /// answer to a request for it.
    fn identified(&self, reference: &Reference, commit: &str, entry: &Entry) -> Result<Identified, HubError> {
        let (repository, name) = (reference.repository(), entry.name.clone());
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.client.endpoint(), escaped(&name));
        if let Entry { size: Some(size), etag: Some(etag), .. } = entry {
            return Ok(Identified { name, url, size: *size, etag: etag.clone() });
        }
        let answer = self.client.get(&url, 0).map_err(|failure| match failure {
            Failure::Unreachable(reason) => HubError::Broken {
                file: format!("{repository}/{name}"),
                have: 0,
                size: entry.size.unwrap_or(0),
                reason,
            },
            Failure::Refused { status, code, message } => self.refused(reference, status, &code, message),
            Failure::Final(error) => error,
        })?;
        let senseless = |reason: &str| HubError::Answer { url: url.clone(), reason: reason.to_owned() };
        let size = size(&answer).ok_or_else(|| senseless("it does not say how long the file is"))?;
        let etag = etag(&answer).ok_or_else(|| senseless("it has no ETag to know the file by"))?;
        Ok(Identified { name, url, size, etag })
    }

    /// Sees to it that the contents are in the cache.
    fn download(
        &self,
        reference: &Reference,
        file: &Identified,
        before: u64,
        observe: Observe<'_>,
    ) -> Result<(), HubError> {
        let (cache, repository) = (&self.settings.cache, reference.repository());
        let blob = cache.blob(repository, &file.etag);
        let part = blob.with_added_extension(PART);
        let lock = cache.lock(repository, &file.etag);
        for path in [&blob, &lock] {
            make_parent(path).map_err(|source| HubError::Write { path: path.clone(), source })?;
        }
        let _lock = locked(&lock, &mut || observe(Event::Waiting { file: &file.name }))?;
        if blob.exists() && length(&blob) == file.size {
            return Ok(());
        }
        let entry = Entry { name: file.name.clone(), size: None, etag: Some(file.etag.clone()) };
        let download = Download {
            client: &self.client,
            patience: self.settings.patience,
            url: &file.url,
            title: &format!("{repository}/{}", file.name),
            size: file.size,
            sha256: entry.sha256(),
            refused: &|status, code, message| self.refused(reference, status, code, message),
        };
        download.run(&part, &mut |step| match step {
            Step::Bytes(bytes) => observe(Event::Bytes { done: before + bytes, file: &file.name }),
            Step::Again(reason) => observe(Event::Again { file: &file.name, reason }),
        })?;
        fs::rename(&part, &blob).map_err(|source| HubError::Write { path: blob, source })
    }

    /// The hub's no, in terms of what was asked for.
    fn refused(&self, reference: &Reference, status: u16, code: &str, message: String) -> HubError {
        let (endpoint, repository) = (self.client.endpoint().to_owned(), reference.repository().to_owned());
        let token = self.client.token().is_some();
        let revision = || reference.revision().to_owned();
        match (status, code, self.client.token()) {
            (_, "GatedRepo", _) => HubError::Gated { repository, endpoint, token },
            (_, "RevisionNotFound", _) => HubError::NoRevision { repository, revision: revision(), endpoint },
            (_, "RepoNotFound", _) => HubError::NoRepository { repository, endpoint, token },
            // A hub without these words says the same of a wrong token and of what must not be seen.
            (401 | 403, _, Some(token)) => HubError::Token { endpoint, origin: token.origin().to_owned(), status },
            (401, _, None) => HubError::NoRepository { repository, endpoint, token },
            (403, _, None) => HubError::Gated { repository, endpoint, token },
            (404, ..) if message.to_lowercase().contains("revision") => {
                HubError::NoRevision { repository, revision: revision(), endpoint }
            }
            (404, ..) => HubError::NoRepository { repository, endpoint, token },
            _ => HubError::Refused { url: format!("{endpoint}/{repository}"), status, message },
        }
    }
}

/// A file that is known well enough to be downloaded.
struct Identified {
    name: String,
    url: String,
    size: u64,
    etag: String,
}

/// The hub's own word first: where it sends on to may count otherwise.
fn size(answer: &Answer) -> Option<u64> {
    let said = answer.said(&["x-linked-size"]).and_then(|size| size.parse().ok());
    said.or_else(|| answer.extent().1)
}

fn etag(answer: &Answer) -> Option<String> {
    let said = answer.said(&["x-linked-etag", "etag"])?;
    let bare = said.trim_start_matches("W/").trim_matches('"');
    is_etag(bare).then(|| bare.to_owned())
}

/// Waits until no other process downloads the same contents.
fn locked(path: &Path, waiting: &mut dyn FnMut() -> ControlFlow<()>) -> Result<File, HubError> {
    let file = File::create(path).map_err(|source| HubError::Write { path: path.to_owned(), source })?;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => wait(Duration::from_millis(100), waiting)?,
            // A file system without locks is no reason not to write to it.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// The model in a snapshot, unless something of it is missing.
fn whole(snapshot: &Path, reference: &Reference) -> Option<PathBuf> {
    if let Some(file) = reference.file() {
        return Some(snapshot.join(file)).filter(|path| path.exists());
    }
    let names: Vec<String> = fs::read_dir(snapshot)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| snapshot.join(name).exists())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let choice = files::choose(reference, &names).ok()?;
    let mut shards = match choice.index {
        Some(index) => shards(&snapshot.join(index)).ok()?,
        None => Vec::new(),
    };
    shards.retain(|shard| !snapshot.join(shard).exists());
    shards.is_empty().then(|| snapshot.to_owned())
}

fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let failed = |source| HubError::Read { path: index.to_owned(), source };
    let text = fs::read(index).map_err(failed)?;
    let shards = files::shards(&text).map_err(|reason| failed(std::io::Error::other(reason)))?;
    Ok(shards.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::testing::{COMMIT, Reply, Repository, Server, User, found, sum, weights};

    /// What is downloaded of [`Repository::model`].
    const TAKEN: [&str; 4] = ["README.md", "config.json", "model.safetensors", "tokenizer.json"];

    #[test]
    fn a_model_is_downloaded_once() {
        let model = Repository::model();
        let server = model.clone().serve();
        let user = User::of(&server);
        let (mut total, mut last) = (None, 0);
        let folder = user
            .fetch_with("hf:owner/name", &mut |event| {
                match event {
                    Event::Begin { files, bytes } => total = Some((files, bytes)),
                    Event::Bytes { done, .. } => {
                        assert!(done >= last, "{done} after {last}");
                        last = done;
                    }
                    other => panic!("{other:?}"),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(model.is_in(&folder, &TAKEN), "{:?}", found(&folder));
        assert_eq!((total, last), (Some((4, 300_013)), 300_013));
        assert_eq!(server.files(), ["config.json", "tokenizer.json", "README.md", "model.safetensors"]);
        assert!(folder.ends_with(format!("models--owner--name/snapshots/{COMMIT}")));
        assert!(user.blobs().contains(&sum(&model.files["model.safetensors"])), "named as other programs name it");

        assert_eq!(user.fetch("hf:owner/name").unwrap(), folder);
        let again = server.requests();
        assert_eq!(again.len(), 1, "the list and nothing else: {again:?}");
    }

    #[test]
    fn a_new_commit_takes_what_has_changed() {
        let (old, mut new) = (Repository::model(), Repository::model());
        new.commit = COMMIT.replace('0', "9");
        new.files.insert("config.json".to_owned(), b"{\"new\":1}".to_vec());
        let mut user = User::of(&old.clone().serve());
        let before = user.fetch("hf:owner/name").unwrap();
        let server = new.clone().serve();
        user.settings.endpoint.clone_from(&server.address);
        let after = user.fetch("hf:owner/name").unwrap();
        assert!(old.is_in(&before, &TAKEN) && new.is_in(&after, &TAKEN));
        assert_eq!(server.files(), ["config.json"]);
    }

    #[test]
    fn a_broken_download_goes_on_in_the_same_run() {
        let model = Repository::model();
        let served = model.clone();
        let server = Server::start(move |request| {
            let reply = served.answer(request);
            if request.path.ends_with("model.safetensors") && request.start() < 200_000 {
                let some = reply.body.len().min(70_000);
                return reply.cut(some);
            }
            reply
        });
        let user = User::of(&server);
        let mut again = 0;
        let folder = user
            .fetch_with("hf:owner/name", &mut |event| {
                again += usize::from(matches!(event, Event::Again { file: "model.safetensors", .. }));
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(model.is_in(&folder, &TAKEN));
        // Each of them brought something new, so three attempts were not the end.
        assert_eq!(again, 3);
        let starts: Vec<usize> = server.requests().iter().map(|request| request.start()).filter(|at| *at > 0).collect();
        assert_eq!(starts, [70_000, 140_000, 210_000]);
    }

    #[test]
    fn a_broken_download_goes_on_in_the_next_run() {
        let model = Repository::model();
        let served = model.clone();
        let broken = Server::start(move |request| match request.path.ends_with("model.safetensors") {
            true if request.start() > 0 => Reply::new(503, "down"),
            true => served.answer(request).cut(123_456),
            false => served.answer(request),
        });
        let mut user = User::of(&broken);
        let error = user.fails("hf:owner/name");
        for word in ["owner/name/model.safetensors", "123456 of 300000", "HTTP 503: down", "same command goes on"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(user.blobs().iter().any(|name| name.ends_with(".part")));
        // Without the network it is no model yet.
        user.settings.offline = true;
        assert!(user.fails("hf:owner/name").contains("no whole copy"));
        user.settings.offline = false;

        let server = model.clone().serve();
        user.settings.endpoint.clone_from(&server.address);
        let folder = user.fetch("hf:owner/name").unwrap();
        assert!(model.is_in(&folder, &TAKEN));
        let starts: Vec<usize> = server.requests().iter().map(|request| request.start()).filter(|at| *at > 0).collect();
        assert_eq!(starts, [123_456]);
        assert!(user.blobs().iter().all(|name| !name.ends_with(".part")));
    }

    #[test]
    fn whoever_observes_may_stop_and_go_on() {
        let model = Repository::model();
        let server = model.clone().serve();
        let user = User::of(&server);
        let stopped = user.fetch_with("hf:owner/name", &mut |event| match event {
            Event::Bytes { file: "model.safetensors", done } if done > 13 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(stopped, Err(HubError::Interrupted)));
        drop(server.requests());
        let folder = user.fetch("hf:owner/name").unwrap();
        assert!(model.is_in(&folder, &TAKEN));
        assert!(server.requests()[1].start() > 0);
    }

    #[test]
    fn shards_are_those_of_the_index() {
        let index =
            br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
        let mut model = Repository::new(&[
            ("config.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.to_vec()),
            ("model-00001-of-00002.safetensors", weights(1000)),
            ("model-00002-of-00002.safetensors", weights(2000)),
            ("consolidated.safetensors", weights(10)),
        ]);
        let names = [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        let server = model.clone().serve();
        let mut user = User::of(&server);
        let folder = user.fetch("hf:owner/name").unwrap();
        assert!(model.is_in(&folder, &names), "{:?}", found(&folder));

        // A shard short, the copy is none.
        user.settings.offline = true;
        user.fetch("hf:owner/name").unwrap();
        fs::remove_file(folder.join(names[3])).unwrap();
        assert!(user.fails("hf:owner/name").contains("no whole copy of hf:owner/name"));

        model.files.remove(names[3]);
        let error = User::of(&model.serve()).fails("hf:owner/name");
        assert!(error.contains("model.safetensors.index.json") && error.contains(names[3]), "{error}");
    }

    #[test]
    fn one_gguf_file_of_several() {
        let repository =
            Repository::new(&[("x-Q4_0.gguf", weights(400)), ("q 8/x.gguf", weights(800)), ("README.md", vec![])]);
        let server = repository.clone().serve();
        let user = User::of(&server);
        let file = user.fetch("hf:owner/name@v1/q 8/x.gguf").unwrap();
        assert!(file.ends_with("q 8/x.gguf") && fs::read(&file).unwrap() == weights(800));
        assert_eq!(server.files(), ["q%208/x.gguf"]);
        assert_eq!(Cache::reference(&file).unwrap().file(), Some("q 8/x.gguf"));
        let error = user.fails("hf:owner/name");
        assert!(error.contains("hf:owner/name/q 8/x.gguf, hf:owner/name/x-Q4_0.gguf"), "{error}");
    }

    #[test]
    fn revisions_are_asked_for_by_their_names() {
        let model = Repository::model();
        let server = model.clone().serve();
        let user = User::of(&server);
        for revision in ["v1", "refs/pr/1", COMMIT] {
            let folder = user.fetch(&format!("hf:owner/name@{revision}")).unwrap();
            assert!(model.is_in(&folder, &TAKEN), "{revision}");
        }
        let paths: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
        assert!(paths[0].starts_with("/api/models/owner/name/revision/v1?"), "{paths:?}");
        assert!(paths.iter().any(|path| path.starts_with("/api/models/owner/name/revision/refs%2Fpr%2F1?")));
        let error = user.fails("hf:owner/name@v9");
        assert!(error.contains("no revision `v9`") && error.contains("/owner/name/tree/main"), "{error}");
    }

    #[test]
    fn without_the_hub_what_is_kept_is_used() {
        let model = Repository::model();
        let server = model.clone().serve();
        let mut user = User::of(&server);
        let folder = user.fetch("hf:owner/name@v1").unwrap();
        drop(server.requests());

        // A port on which nobody listens, a hub that is down, and one that must not be asked.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let down = Server::start(|_| Reply::new(502, "<html>bad gateway</html>"));
        for (endpoint, offline, why) in [
            (format!("http://{nobody}"), false, "refused"),
            (down.address.clone(), false, "HTTP 502"),
            (server.address.clone(), true, "HF_HUB_OFFLINE"),
        ] {
            (user.settings.endpoint, user.settings.offline) = (endpoint, offline);
            let mut kept = String::new();
            let found = user.fetch_with("hf:owner/name@v1", &mut |event| {
                kept = format!("{event:?}");
                ControlFlow::Continue(())
            });
            assert_eq!(found.unwrap(), folder);
            assert!(kept.contains(COMMIT) && kept.to_lowercase().contains(&why.to_lowercase()), "{kept}");
            let error = user.fails("hf:owner/other");
            assert!(error.contains("no whole copy of hf:owner/other") && error.contains("HF_ENDPOINT"), "{error}");
        }
        assert!(server.requests().is_empty());
    }

    #[test]
    fn a_no_says_what_to_do() {
        let model = Repository::model();
        for (status, code, on_file, token, words) in [
            (401, "RepoNotFound", false, None, &["no model owner/name", "HF_TOKEN"][..]),
            (404, "RepoNotFound", false, Some("hf_x"), &["no model owner/name", "account of the token"]),
            (401, "", false, None, &["no model owner/name", "HF_TOKEN"]),
            (401, "", false, Some("hf_x"), &["does not accept the token from HF_TOKEN", "settings/tokens"]),
            (404, "RevisionNotFound", false, None, &["no revision `main`"]),
            (401, "GatedRepo", true, None, &["owner/name is gated", "accept its terms", "set HF_TOKEN"]),
            (403, "GatedRepo", true, Some("hf_x"), &["owner/name is gated", "is let in"]),
            (403, "", true, None, &["gated"]),
            (451, "", false, None, &["HTTP 451", ": no"]),
        ] {
            let served = model.clone();
            let server = Server::start(move |request| match request.path.contains("/resolve/") == on_file {
                true => Reply::no(status, code),
                false => served.answer(request),
            });
            let user = User::of(&server);
            let error = token.map_or(user.fails("hf:owner/name"), |token| {
                User::of(&server).with_token(token).fails("hf:owner/name")
            });
            assert!(words.iter().all(|word| error.contains(word)), "{status} {code}: {error}");
            assert!(!error.contains("hf_x"), "{error}");
        }
    }

    #[test]
    fn a_mirror_that_lists_names_alone_will_do() {
        let mut model = Repository::model();
        model.blobs = false;
        let server = model.clone().serve();
        let user = User::of(&server);
        let folder = user.fetch("hf:owner/name").unwrap();
        assert!(model.is_in(&folder, &TAKEN));
        drop(server.requests());
        user.fetch("hf:owner/name").unwrap();
        assert_eq!(server.requests().len(), 1);
    }

    #[test]
    fn two_processes_download_once() {
        let model = Repository::model();
        let server = model.clone().serve();
        let user = User::of(&server);
        let lock = user.settings.cache.lock("owner/name", &sum(&model.files["model.safetensors"]));
        make_parent(&lock).unwrap();
        let other = File::create(&lock).unwrap();
        other.lock().unwrap();
        let (mut waited, mut other) = (0, Some(other));
        let folder = user
            .fetch_with("hf:owner/name", &mut |event| {
                if let Event::Waiting { file: "model.safetensors" } = event {
                    waited += 1;
                    other = other.take().filter(|_| waited < 3);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(waited >= 3 && model.is_in(&folder, &TAKEN));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_says_where_else_to_go() {
        let model = Repository::model();
        let server = model.clone().serve();
        let user = User::of(&server);
        let blob = user.settings.cache.blob("owner/name", &sum(&model.files["model.safetensors"]));
        make_parent(&blob).unwrap();
        // Every write to /dev/full fails with ENOSPC.
        std::os::unix::fs::symlink("/dev/full", blob.with_added_extension(PART)).unwrap();
        let error = user.fails("hf:owner/name");
        assert!(error.contains("cannot write") && error.contains(".part") && error.contains("make room"), "{error}");
    }
}
