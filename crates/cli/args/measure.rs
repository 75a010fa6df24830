//! What can be typed after `quench measure`.

use std::path::PathBuf;

use clap::ValueHint;
use quench::job::{Floor, metric};
use quench::metrics::Metric;
use quench::models::text::TextSource;

use super::{CODES, positive};
use crate::device::Wanted;

/// Arguments of `quench measure`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Both models read the same data. Of a language model what is behind each block is compared, and what it predicts; of a sentence
encoder the vectors of sentences; of an image classifier its features, and what it predicts. Every score is 1 where nothing is lost
and 0 where chance is left; coherence is the lowest of those that are named.

Metrics: knn-overlap, trustworthiness, continuity, cka, rsa, procrustes, reconstruction, exp-kl (or kl), agreement.

Examples:
  quench measure ./Llama-3.2-1B ./llama-int4 --data wiki.txt
  quench measure ./Llama-3.2-1B ./llama-int4 --data wiki.txt --metrics kl,agreement,cka --floor coherence=0.9
      Exit code 3 if the lowest of the three is below 0.9, or may be.
  quench measure ./all-MiniLM-L6-v2 ./minilm-int4 --data sentences.txt --floor knn-overlap=0.8 --json measure.json
      `quench report measure.json` draws the shapes and the maps.
  quench measure vectors.npy quantized.npy
      Two files of vectors, a row for each; or safetensors with matrices of the same names.

{CODES}"))]
pub struct Measure {
    /// The reference: folder of a dense model, hf:OWNER/NAME, `spark`, or a file of vectors (.npy, .safetensors)
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    pub reference: PathBuf,

    /// What approximates it: another model of its kind, or another file of as many vectors
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    pub approximation: PathBuf,

    /// What both read: texts, with a language as in `de=FILE`, or for an image classifier folders of images
    /// [default: spark's own texts for spark]
    #[arg(short = 't', long, visible_alias = "text", value_name = "[LANG=]PATH", num_args = 1..,
          value_hint = ValueHint::AnyPath)]
    pub data: Vec<TextSource>,

    /// Metrics that coherence is the lowest of [default: all that apply]
    #[arg(short, long, value_name = "NAME,..", value_delimiter = ',', value_parser = metric)]
    pub metrics: Vec<Metric>,

    /// The least score of a metric, or of `coherence`; may be given several times
    #[arg(short, long = "floor", value_name = "METRIC=SCORE")]
    pub floors: Vec<Floor>,

    /// Neighbours of a vector
    #[arg(short, long, default_value_t = 10, value_parser = positive)]
    pub k: usize,

    /// Sequences, sentences or images
    #[arg(long, default_value_t = 64, value_parser = positive)]
    pub samples: usize,

    /// Tokens per sequence
    #[arg(long, default_value_t = 128, value_parser = positive)]
    pub length: usize,

    /// Sequences or images that run through the models together
    #[arg(long, default_value_t = 4, value_parser = positive)]
    pub batch: usize,

    /// Vectors of a site that are compared, at most
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    pub points: usize,

    /// Of those, landmarks whose pieces and loops are looked at
    #[arg(long, default_value_t = 200, value_parser = positive)]
    pub landmarks: usize,

    /// Of the sequences, permutations and intervals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Write all of it as JSON, for `quench report`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show every site
    #[arg(short, long)]
    pub verbose: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}
