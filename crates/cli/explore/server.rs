//! The page and its events, over HTTP.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Json, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_core::Stream;
use quench::job::{ModelLayers, StudySettings};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::work::{Desk, Wish};

/// The page, whole but for its style and its script.
const PAGE: &str = include_str!("page.html");

/// What the page is told of the model.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    name: String,
    layers: Vec<(String, [usize; 2])>,
}

impl About {
    /// Of a model by its name.
    pub fn of(name: &str, layers: &ModelLayers) -> Self {
        Self { name: name.to_owned(), layers: layers.names().map(|(name, shape)| (name.to_owned(), shape)).collect() }
    }
}

/// All that is served: `/`, `/model`, `/events`, and `/settings` and `/layer` to be told.
///
/// - `port`: where this is a server for this machine alone, so that other names than its own are refused: a page from elsewhere could have
///   a name that leads here
pub fn pages(desk: Desk, about: Option<About>, port: Option<u16>) -> Router {
    let page: Arc<str> =
        PAGE.replace("/* style */", include_str!("page.css")).replace("/* script */", include_str!("page.js")).into();
    Router::new()
        .route("/", get(move || async move { page_of(&page) }))
        .route("/model", get(move || async move { Json(about) }))
        .route("/events", get(events))
        .route("/settings", post(settings))
        .route("/layer", post(layer))
        .layer(middleware::from_fn(move |headers: HeaderMap, request: Request, next: Next| async move {
            match port.is_none_or(|port| is_here(&headers, port)) {
                true => next.run(request).await,
                false => (StatusCode::FORBIDDEN, "this server is for this machine alone").into_response(),
            }
        }))
        .with_state(desk)
}

/// Nothing but what the page itself has may be loaded by it.
fn page_of(page: &str) -> impl IntoResponse + use<> {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:";
    ([(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")], Html(page.to_owned()))
}

fn is_here(headers: &HeaderMap, port: u16) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.strip_suffix(&format!(":{port}")).unwrap_or(host);
    matches!(name, "localhost" | "[::1]")
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// An order: its number, or why there is none.
fn ordered(number: Option<u64>) -> Response {
    match number {
        Some(number) => Json(json!({ "version": number })).into_response(),
        None => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the computation has ended; start quench explore again").into_response()
        }
    }
}

async fn settings(State(desk): State<Desk>, Json(settings): Json<StudySettings>) -> Response {
    match settings.check() {
        Ok(()) => ordered(desk.set(settings)),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn layer(State(desk): State<Desk>, Json(wish): Json<Wish>) -> Response {
    ordered(desk.look(wish))
}

/// Frames and views as they come, beginning with the last ones; a slow reader misses some, and never the last.
async fn events(State(desk): State<Desk>) -> impl IntoResponse {
    let (told, heard) = mpsc::channel(1);
    tokio::spawn(tell(desk.frames, "frame", told.clone()));
    tokio::spawn(tell(desk.layers, "layer", told));
    Sse::new(Events(heard)).keep_alive(KeepAlive::default())
}

async fn tell(mut from: watch::Receiver<Arc<str>>, name: &'static str, to: mpsc::Sender<Event>) {
    loop {
        let json = from.borrow_and_update().clone();
        if !json.is_empty() && to.send(Event::default().event(name).data(&*json)).await.is_err() {
            return;
        }
        tokio::select! {
            changed = from.changed() => if changed.is_err() { return },
            () = to.closed() => return,
        }
    }
}

/// The events of one reader.
struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let here = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_here(&headers, 80)
        };
        assert!(["localhost:80", "127.0.0.1", "127.0.0.1:80", "[::1]:80"].into_iter().all(here));
        assert!(!["example.com:80", "localhost.example.com", "10.0.0.1", "localhost:81", ""].into_iter().any(here));
    }

    #[test]
    fn the_page_is_whole() {
        assert!(PAGE.contains("/* style */") && PAGE.contains("/* script */"));
        for word in ["http://", "https://", "//cdn"] {
            let elsewhere = [PAGE, include_str!("page.css"), include_str!("page.js")].concat();
            assert!(!elsewhere.replace("http://www.w3.org/2000/svg", "").contains(word), "{word}");
        }
    }
}
