//! A hub on this machine, for tests: one that behaves, and hooks to make it misbehave.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{Cache, Event, Hub, HubError, Patience, Settings, Token};

/// The commit of every repository here, unless a test says otherwise.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// With what stands behind the `?`.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first byte that is asked for.
    pub(crate) fn start(&self) -> usize {
        let range =
            self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        range.unwrap_or(0)
    }
}

/// What goes out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The length that is claimed, where it is not that of the body.
    pub(crate) claimed: Option<usize>,
    /// How long the server is silent before it closes the connection.
    pub(crate) silence: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Says no in the hub's way.
    pub(crate) fn no(status: u16, code: &str) -> Self {
        Self::new(status, "{\"error\":\"no\"}").with("X-Error-Code", code)
    }

    /// Sends all headers, and of the body the first bytes only.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.claimed = Some(self.body.len());
        self.body.truncate(bytes);
        self
    }
}

/// A server on a port of its own; its thread ends with the process.
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, kept) = (Arc::new(answer), requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (answer.clone(), kept.clone());
                thread::spawn(move || serve(stream, &*answer, &kept));
            }
        });
        Self { address, requests }
    }

    /// What came in since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The files that were asked for since the last time, by their names.
    pub(crate) fn files(&self) -> Vec<String> {
        let of = |request: &Request| Some(request.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned());
        self.requests().iter().filter_map(of).collect()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, kept: &Mutex<Vec<Request>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let line = lines.next()?.ok()?;
        if line.is_empty() {
            break;
        }
        headers.extend(line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let request = Request { path, headers };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let Reply { status, headers, body, claimed, silence } = answer(&request);
    let mut head = format!("HTTP/1.1 {status} Said\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", claimed.unwrap_or(body.len())));
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()?;
    stream.flush().ok()?;
    thread::sleep(silence);
    Some(())
}

/// The files of a repository, `owner/name`.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) commit: String,
    /// Whether the list has lengths and sums.
    pub(crate) blobs: bool,
}

/// Bytes that repeat nowhere, so that a part in the wrong place is found.
pub(crate) fn weights(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

impl Repository {
    pub(crate) fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        Self { files, commit: COMMIT.to_owned(), blobs: true }
    }

    /// A small model in one file.
    pub(crate) fn model() -> Self {
        Self::new(&[
            ("README.md", b"# model\n".to_vec()),
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", weights(300_000)),
            ("tf_model.h5", weights(10)),
            ("tokenizer.json", b"[1]".to_vec()),
        ])
    }

    /// What the hub's list says.
    fn list(&self) -> String {
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let lfs = match is_large(name) {
                true => format!(r#","lfs":{{"sha256":"{}","size":{},"pointerSize":134}}"#, sum(bytes), bytes.len()),
                false => String::new(),
            };
            let blob = format!(r#","size":{},"blobId":"{}"{lfs}"#, bytes.len(), &sum(bytes)[..40]);
            format!(r#"{{"rfilename":"{name}"{}}}"#, if self.blobs { blob } else { String::new() })
        };
        let siblings: Vec<String> = self.files.iter().map(sibling).collect();
        format!(r#"{{"id":"owner/name","sha":"{}","siblings":[{}]}}"#, self.commit, siblings.join(","))
    }

    /// What a hub answers that behaves.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if let Some(revision) = path.strip_prefix("/api/models/owner/name/revision/") {
            return match revision {
                "main" | "v1" | "refs%2Fpr%2F1" => Reply::new(200, self.list()),
                _ if revision == self.commit => Reply::new(200, self.list()),
                _ => Reply::no(404, "RevisionNotFound"),
            };
        }
        let Some(name) = path.strip_prefix(&format!("/owner/name/resolve/{}/", self.commit)) else {
            return Reply::no(404, "RepoNotFound");
        };
        let Some(bytes) = self.files.get(&name.replace("%20", " ")) else { return Reply::no(404, "EntryNotFound") };
        let etag = if is_large(name) { sum(bytes) } else { sum(bytes)[..40].to_owned() };
        let start = request.start();
        let reply = match start {
            0 => Reply::new(200, bytes.clone()),
            _ if start >= bytes.len() => return Reply::new(416, ""),
            _ => Reply::new(206, &bytes[start..])
                .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        };
        reply.with("ETag", format!("\"{etag}\"")).with("X-Repo-Commit", &self.commit)
    }

    /// A hub that behaves.
    pub(crate) fn serve(self) -> Server {
        Server::start(move |request| self.answer(request))
    }

    /// Whether `folder` has exactly these of the files, as they are here.
    pub(crate) fn is_in(&self, folder: &Path, names: &[&str]) -> bool {
        let mut expected: Vec<&str> = names.to_vec();
        expected.sort_unstable();
        let same = |name: &&str| fs::read(folder.join(name)).is_ok_and(|bytes| bytes == self.files[*name]);
        found(folder) == expected && names.iter().all(same)
    }
}

/// The names in a folder.
pub(crate) fn found(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Whether the hub keeps a file apart, by its SHA-256.
fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|ending| name.ends_with(ending))
}

pub(crate) fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Somebody with an empty cache.
pub(crate) struct User {
    folder: tempfile::TempDir,
    pub(crate) settings: Settings,
}

impl User {
    pub(crate) fn of(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: server.address.clone(),
            cache: Cache::new(folder.path().join("hub")),
            token: None,
            offline: false,
            certificates: None,
            patience: Patience { attempts: 3, pause: Duration::from_millis(1), silence: Duration::from_millis(500) },
        };
        Self { folder, settings }
    }

    pub(crate) fn with_token(mut self, secret: &str) -> Self {
        self.settings.token = Some(Token::new(secret, "HF_TOKEN"));
        self
    }

    pub(crate) fn fetch(&self, text: &str) -> Result<PathBuf, HubError> {
        self.fetch_with(text, &mut |_| ControlFlow::Continue(()))
    }

    pub(crate) fn fetch_with(
        &self,
        text: &str,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<PathBuf, HubError> {
        Hub::new(self.settings.clone())?.fetch(&text.parse()?, observe)
    }

    /// What is wrong, in words.
    pub(crate) fn fails(&self, text: &str) -> String {
        match self.fetch(text) {
            Ok(path) => panic!("{text} gave {}", path.display()),
            Err(error) => error.to_string(),
        }
    }

    /// Contents in the cache, whole ones and parts.
    pub(crate) fn blobs(&self) -> Vec<String> {
        found(&self.folder.path().join("hub/models--owner--name/blobs"))
    }
}
