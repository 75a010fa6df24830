//! A hub on this machine that has one model, `owner/name`, from a folder.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

/// The commit that it stands at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files of `folder` until the process ends; gives the address.
pub fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whom it cannot answer it leaves.
            let _ = answer(stream, &folder);
        }
    });
    address
}

fn answer(mut stream: TcpStream, folder: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split([' ', '?']).nth(1)?.to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    let (status, etag, body) = match path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/")) {
        Some(name) => {
            let etag = name.bytes().map(|byte| format!("{byte:02x}")).collect();
            (200, etag, fs::read(folder.join(name)).ok()?)
        }
        None if path == "/api/models/owner/name/revision/main" => (200, String::new(), list(folder).into_bytes()),
        None => (404, String::new(), b"no such model".to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nConnection: close\r\nETag: \"{etag}\"\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).ok()
}

/// Names alone, as a mirror lists them.
fn list(folder: &Path) -> String {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let siblings: Vec<String> = names.map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
    format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(","))
}
