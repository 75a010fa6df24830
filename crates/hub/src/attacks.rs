//! Hubs that lie, and what becomes of it: an error that says so, and nothing of it in the cache.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::testing::{COMMIT, Reply, Repository, Request, Server, User, weights};

/// A hub that answers `lie` where that is something for the weights, and behaves otherwise.
fn hub(lie: impl Fn(&Repository, &Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let model = Repository::model();
    Server::start(move |request| {
        let lie = if request.path.ends_with("model.safetensors") { lie(&model, request) } else { None };
        lie.unwrap_or_else(|| model.answer(request))
    })
}

#[test]
fn a_length_that_is_not_the_listed_one_is_refused() {
    for (case, length, claimed) in [
        ("longer", 300_001, None),
        ("shorter", 299_999, None),
        ("claimed longer", 300_000, Some(400_000)),
        ("claimed shorter", 300_000, Some(200_000)),
    ] {
        let server = hub(move |_, _| Some(Reply { claimed, ..Reply::new(200, weights(length)) }));
        let user = User::of(&server);
        let error = user.fails("hf:owner/name");
        assert!(error.contains("model.safetensors should have 300000 bytes"), "{case}: {error}");
        assert_eq!(user.blobs().len(), 3, "{case}: {:?}", user.blobs());
    }
}

#[test]
fn a_body_that_ends_early_is_kept_and_told() {
    let server = hub(|model, request| Some(model.answer(request).cut(0)));
    let user = User::of(&server);
    let error = user.fails("hf:owner/name");
    assert!(error.contains("broke off at 0 of 300000"), "{error}");
    assert_eq!(server.files().iter().filter(|name| *name == "model.safetensors").count(), 3);
}

#[test]
fn other_bytes_of_the_right_length_are_thrown_away() {
    let server = hub(|_, _| Some(Reply::new(200, vec![7; 300_000])));
    let user = User::of(&server);
    let error = user.fails("hf:owner/name");
    assert!(error.contains("was damaged on its way") && error.contains("run the command again"), "{error}");
    assert_eq!(user.blobs().len(), 3, "{:?}", user.blobs());
}

#[test]
fn a_damaged_beginning_is_found_and_the_next_run_begins_anew() {
    let model = Repository::model();
    let server = model.clone().serve();
    let user = User::of(&server);
    let sum = crate::testing::sum(&model.files["model.safetensors"]);
    let part = user.settings.cache.blob("owner/name", &sum).with_added_extension("part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    for beginning in [vec![1; 1000], vec![1; 300_000]] {
        fs::write(&part, beginning).unwrap();
        assert!(user.fails("hf:owner/name").contains("was damaged"));
        assert!(!part.exists());
    }
    // Longer than the file, it is nothing of it.
    fs::write(&part, vec![1; 300_001]).unwrap();
    let folder = user.fetch("hf:owner/name").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), model.files["model.safetensors"]);
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let cut = AtomicUsize::new(0);
    let server = hub(move |model, _| {
        let whole = Reply::new(200, model.files["model.safetensors"].clone());
        let first = cut.fetch_add(1, Ordering::SeqCst) == 0;
        Some(if first { whole.cut(100_000) } else { whole })
    });
    let user = User::of(&server);
    let folder = user.fetch("hf:owner/name").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(300_000));
}

#[test]
fn a_part_from_somewhere_else_is_not_appended() {
    let server = hub(|model, request| {
        let reply = model.answer(request);
        if request.start() == 0 {
            return Some(reply.cut(100_000));
        }
        let bytes = model.files["model.safetensors"][50_000..].to_vec();
        Some(Reply::new(206, bytes).with("Content-Range", "bytes 50000-299999/300000"))
    });
    let user = User::of(&server);
    let error = user.fails("hf:owner/name");
    assert!(error.contains("broke off"), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let server = hub(|model, request| {
        let reply = model.answer(request).cut(1000);
        Some(Reply { silence: Duration::from_secs(20), ..reply })
    });
    let mut user = User::of(&server);
    user.settings.patience.silence = Duration::from_millis(100);
    user.settings.patience.attempts = 1;
    let error = user.fails("hf:owner/name");
    assert!(error.contains("broke off at 1000 of 300000") && error.contains("timeout"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let model = Repository::model();
    // Where the hub keeps large files: another port is another host.
    let store = Server::start({
        let model = model.clone();
        move |request| {
            let path = format!("/owner/name/resolve/{COMMIT}/model.safetensors");
            model.answer(&Request { path, ..request.clone() })
        }
    });
    let to = store.address.clone();
    let server = hub(move |model, request| {
        let location = match request.path.starts_with("/moved") {
            true => format!("{to}/signed?key=x"),
            // An address on the same host comes first.
            false => format!("/moved{}", request.path),
        };
        let etag = crate::testing::sum(&model.files["model.safetensors"]);
        Some(Reply::new(302, "").with("Location", location).with("X-Linked-Etag", format!("\"{etag}\"")))
    });
    let user = User::of(&server).with_token("hf_secret");
    let folder = user.fetch("hf:owner/name").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(300_000));
    let asked = server.requests();
    assert!(asked.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")), "{asked:?}");
    assert!(asked.iter().any(|request| request.path.starts_with("/moved/owner")));
    let sent = store.requests();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("authorization"), None, "{sent:?}");

    // Without a token nobody gets one.
    let user = User::of(&server);
    user.fetch("hf:owner/name").unwrap();
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn an_address_that_has_expired_is_asked_for_again() {
    let model = Repository::model();
    let store = Server::start(move |request| {
        let path = format!("/owner/name/resolve/{COMMIT}/model.safetensors");
        match request.path.as_str() {
            "/old" => Reply::new(403, "<Error>Request has expired</Error>"),
            _ => model.answer(&Request { path, ..request.clone() }),
        }
    });
    let (to, asked) = (store.address.clone(), AtomicUsize::new(0));
    let server = hub(move |_, _| {
        let name = if asked.fetch_add(1, Ordering::SeqCst) < 2 { "old" } else { "new" };
        Some(Reply::new(302, "").with("Location", format!("{to}/{name}")))
    });
    let user = User::of(&server).with_token("hf_secret");
    let folder = user.fetch("hf:owner/name").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(300_000));
    assert_eq!(store.requests().len(), 3);
}

#[test]
fn an_address_that_leads_nowhere_is_an_error() {
    for (location, words) in
        [("", "no address"), ("ftp://x/y", "not encrypted"), ("/owner/name/model.safetensors", "more than 10")]
    {
        let server = hub(move |_, _| Some(Reply::new(302, "").with("Location", location)));
        let error = User::of(&server).fails("hf:owner/name");
        assert!(error.contains(words), "{location}: {error}");
    }
}

#[test]
fn names_that_lead_out_of_the_cache_are_not_followed() {
    for name in ["../../../evil", "/etc/passwd", "a/../../b"] {
        let server = Repository::new(&[(name, vec![1]), ("model.safetensors", weights(10))]).serve();
        let folder = User::of(&server).fetch("hf:owner/name").unwrap();
        assert!(folder.ends_with(COMMIT));
        assert_eq!(server.files(), ["model.safetensors"], "{name}");
    }
    let index = br#"{"weight_map":{"a":"../../../../evil"}}"#;
    let server = Repository::new(&[("model.safetensors.index.json", index.to_vec())]).serve();
    assert!(User::of(&server).fails("hf:owner/name").contains("no path in a repository"));
}

#[test]
fn what_is_no_hub_is_told_so() {
    for (reply, words) in [
        (Reply::new(200, "<html>welcome</html>"), "makes no sense"),
        (Reply::new(200, "{\"sha\":\"../../x\",\"siblings\":[]}"), "no commit"),
        (Reply::new(404, "<html>no</html>"), "no model owner/name"),
        (Reply::new(418, "short and stout\nand more"), "HTTP 418): short and stout"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = User::of(&server).fails("hf:owner/name");
        assert!(error.contains(words) && !error.contains('\n') && !error.contains('<'), "{error}");
    }
}
