//! What can be typed after `quench explore`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::ValueHint;

use super::CODES;
use crate::device::Wanted;

/// Arguments of `quench explore`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
A page on this machine, with sliders: a small network is trained as they move, and shows what steps, bits, activation, regularisation
and noise do to its latents. With a MODEL, its layers can be rounded by any scheme. The page asks nothing of any network.

Examples:
  quench explore
  quench explore ./Llama-3.2-1B --port 8080 --no-open

{CODES}"))]
pub struct Explore {
    /// Folder of a model whose layers are to be looked at, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,

    /// The address to listen on; whoever can reach it can use the page
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// The port; 0 takes a free one
    #[arg(short, long, default_value_t = 0)]
    pub port: u16,

    /// Do not open a browser
    #[arg(long)]
    pub no_open: bool,

    /// Where to compute the layers of the model: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}
