//! What can be typed after `quench threshold`.

use std::path::PathBuf;

use clap::ValueHint;
use quench::models::text::TextSource;

use super::{CODES, positive};
use crate::device::Wanted;

/// Arguments of `quench threshold`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
The weights of a dense model are rounded with ever larger steps, relative to the root mean square of each matrix, on grids with
random offsets. Three things are told apart: the step at which a tolerance ends, the one at which the response is no longer that of
δ² tr F / 24, and a transition, which few models have. The first is predicted as well, from gradients of the dense model.

Examples:
  quench threshold spark
  quench threshold ./Llama-3.2-1B --data wiki.txt --kl 0.05 --json threshold.json
      The step at which the divergence passes 0.05 nats; `quench report threshold.json` draws it.
  quench threshold ./Llama-3.2-1B --data wiki.txt --layers '*mlp*' --steps 24 --offsets 5
      Only some layers, and more steps and grids.
  quench threshold ./small ./medium ./large --data wiki.txt
      Does the fall sharpen with the size?

{CODES}"))]
pub struct Threshold {
    /// Folders of dense models, hf:OWNER/NAME, or `spark`; three or more of different sizes for finite-size scaling
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub models: Vec<PathBuf>,

    /// What to measure on: texts, with a language as in `de=FILE`, or for an image classifier folders of images
    /// [default: spark's own texts for spark]
    #[arg(short = 't', long, visible_alias = "text", value_name = "[LANG=]PATH", num_args = 1..,
          value_hint = ValueHint::AnyPath)]
    pub data: Vec<TextSource>,

    /// How many steps, with equal ratios
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(5..=256))]
    pub steps: u16,

    /// Smallest step [default: an eighth of the predicted one]
    #[arg(long, value_name = "STEP", requires = "to")]
    pub from: Option<f64>,

    /// Largest step [default: 16 times the predicted one]
    #[arg(long, value_name = "STEP", requires = "from")]
    pub to: Option<f64>,

    /// Grids that are drawn at each step, for the standard errors
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=64))]
    pub offsets: u16,

    /// Round only the layers that this matches, * for any text
    #[arg(short, long, default_value = "*", value_name = "PATTERN")]
    pub layers: String,

    /// The divergence that is tolerated, nats per label
    #[arg(long, default_value_t = 0.1, value_name = "NATS")]
    pub kl: f64,

    /// Sequences or images
    #[arg(long, default_value_t = 32, value_parser = positive)]
    pub samples: usize,

    /// Tokens per sequence
    #[arg(long, default_value_t = 128, value_parser = positive)]
    pub length: usize,

    /// Sequences or images that run through the model together
    #[arg(long, default_value_t = 4, value_parser = positive)]
    pub batch: usize,

    /// Of the sequences, the labels, the offsets and the intervals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Write the sweep and its fits as JSON, for `quench report`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}
