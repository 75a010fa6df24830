//! `quench explore`: a page on this machine on which a small network is trained, and layers are rounded, as sliders move.

mod server;
mod work;

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::Context;
use burn::tensor::Device;
use quench::job::ModelLayers;
use tokio::net::TcpListener;

use crate::args::Explore;
use crate::failure::Outcome;
use crate::model;

/// Serves the page until the program is ended.
pub fn run(arguments: &Explore) -> anyhow::Result<Outcome> {
    let layers = match &arguments.model {
        None => None,
        Some(named) => {
            let folder = model::folder(named, arguments.quiet)?;
            Some((model::name(named), ModelLayers::open(&folder, &arguments.device.resolve()?)?))
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let place = (arguments.host, arguments.port);
        let listener = TcpListener::bind(place).await.with_context(|| {
            format!("cannot listen on {}:{}; choose another --port", arguments.host, arguments.port)
        })?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}/");
        // The small network is too small for anything but the CPU.
        let about = layers.as_ref().map(|(name, layers)| server::About::of(name, layers));
        let desk = work::start(layers.map(|(_, layers)| layers), Device::flex())?;
        let mut out = std::io::stdout();
        writeln!(out, "{url}")?;
        out.flush()?;
        if !arguments.no_open {
            open(&url);
        }
        let loopback = arguments.host.is_loopback();
        axum::serve(listener, server::pages(desk, about, loopback.then_some(address.port()))).await?;
        Ok(Outcome::Done)
    })
}

/// Asks the desktop for a browser; where there is none, the address is on standard output.
fn open(url: &str) {
    let (program, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let command = Command::new(program).args(arguments).arg(url).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if command.is_err() {
        eprintln!("note: no browser could be started; open {url}");
    }
}
