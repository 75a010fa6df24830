//! What can be typed: commands, options, and their help.

mod explore;
mod measure;
mod threshold;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};
use quench::job::{Container, Requantize};
use quench::kernels::Activations;
use quench::models::text::TextSource;

use crate::device::Wanted;
use crate::snr::{Origin, SEED, Widths};

pub use explore::Explore;
pub use measure::Measure;
pub use threshold::Threshold;

const CODES: &str = "\
Exit codes:
  0    ok
  2    bad input or environment; one line on standard error names the culprit
  3    a quality gate failed; the model is saved, and marked as failed
  101  an error inside quench; please report it
  130  interrupted; what was finished is on disk, and --resume goes on from it";

/// Makes a trained model small, and says what was lost.
///
/// A MODEL is a folder as it comes from Hugging Face (config.json, model.safetensors, tokenizer.json): a language model, a
/// sentence encoder or an image classifier. Or it is hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FILE.gguf: one
/// that is downloaded from there, as far as it is not in the cache yet; HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE say
/// what they say to other programs. Or it is the word `spark`: a small language model inside this program, with texts of its
/// own, to try everything at once.
#[derive(Debug, Parser)]
#[command(name = "quench", version, max_term_width = 120, after_help = concat!("\
Examples:
  quench quantize                                 try it: quantize the embedded model
  quench quantize ./Llama-3.2-1B --calibration en=english.txt de=german.txt --eval en=held-out.txt
  quench quantize hf:HuggingFaceTB/SmolLM2-135M --calibration wiki.txt
  quench quantize ./resnet56 --calibration photos --eval photos-by-class
  quench generate spark-gptq-int4-g128 --prompt 'Once upon a time'
  quench inspect spark-gptq-int4-g128
\n",
"Exit codes: 0 ok, 2 bad input or environment, 3 a quality gate failed, 101 an error inside quench, 130 interrupted."))]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a model, save it, and report what was lost
    Quantize(Box<Quantize>),
    /// Measure the perplexity of a model, and how far it is from its dense original
    Eval(Eval),
    /// Make a model as small as asked for, mixing bits so that it stays as close as possible, and keep a floor
    Compress(Compress),
    /// Predict how far quantized models are from a dense one, without running them
    Predict(Predict),
    /// Compare what two models, or two files of vectors, have in common, by many metrics
    Measure(Measure),
    /// Round weights ever more coarsely: where does a model stop to work, and is that a cliff?
    Threshold(Threshold),
    /// Serve a page on this machine, with sliders, on which a small network is trained and layers are rounded
    Explore(Explore),
    /// Make one HTML file with plots of what other commands have written as JSON
    Report(Report),
    /// Train a quantized model to say what its dense original says
    Finetune(Finetune),
    /// Show what is in a checkpoint, layer by layer
    Inspect(Inspect),
    /// Write a checkpoint again in another container
    Convert(Convert),
    /// Continue a text
    Generate(Generate),
    /// Measure tokens per second and peak memory
    Bench(Bench),
    /// Compare codes by the signal-to-noise ratio they leave of the weights, beside what theory allows
    Snr(Snr),
    /// Compute every number that theory knows beforehand, and compare
    Validate(Validate),
    /// Say on which machines a model runs, and how fast it can be there
    Fit(Fit),
    /// List the recipes, or print one
    Recipes(Recipes),
    /// List the devices that this program can use here
    Devices,
}

/// Arguments of `quench quantize`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench quantize
      Quantizes the embedded model with its own texts, and shows what the result writes.
  quench quantize ./Llama-3.2-1B --calibration wiki.txt --eval held-out.txt --output ./llama-int4
      One text to calibrate on, another to measure with.
  quench quantize hf:HuggingFaceTB/SmolLM2-135M --calibration wiki.txt --eval held-out.txt
      A model of the Hugging Face hub by its name; with @REVISION behind it that branch, tag or commit.
  quench quantize ./Llama-3.2-1B --recipe rtn-int4-g128
      Plain rounding needs no calibration text.
  quench quantize ./gemma-3-1b --calibration en=a.txt de=b.txt --eval en=c.txt de=d.txt --json r.json
      Equal tokens of each language, a table of the loss in each, and the report as JSON.
  quench quantize ./gemma-3-1b --calibration texts/calibration --eval texts/evaluation
      The same with folders in which the files are called en.txt, de.txt, ...
  quench quantize ./all-MiniLM-L6-v2 --calibration sentences.txt --eval stsb-test.csv sst2
      A sentence encoder: similarity of pairs, and a folder with train.tsv and dev.tsv for a linear probe.
  quench quantize ./resnet56 --calibration photos --eval photos-by-class --recipe gptq-int4-g128
      An image classifier: any images to calibrate on; a folder of images for each class to measure with.
  quench quantize ./Llama-3.2-1B --calibration wiki.txt --dry-run > plan.toml
  quench quantize ./Llama-3.2-1B --calibration wiki.txt --plan plan.toml
      Prints the plan, layer by layer; after editing, carries it out.

{CODES}"))]
pub struct Quantize {
    /// Folder of the dense model, hf:OWNER/NAME, or `spark`; give it before --calibration and --eval
    #[arg(default_value = crate::model::SPARK, value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// Folder to write the quantized model to [default: ./MODEL-RECIPE]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,

    /// A recipe of `quench recipes`, or a TOML file [default: gptq-int4-g128, or the one that --plan came from]
    #[arg(short, long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,

    /// An edited plan, as --dry-run prints it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,

    /// Calibration data: texts or folders of them, with a language as in `de=FILE`; for an image classifier folders of images
    /// [default: spark's own for spark]
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<TextSource>,

    /// Evaluation data: texts, given in the same way; for a sentence encoder files of pairs with scores, and folders with
    /// train.tsv and dev.tsv; for an image classifier a folder with one folder of images per class. Without any, the result is
    /// not measured [default: spark's own for spark]
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub eval: Vec<TextSource>,

    /// Seed of the calibration draw, in place of the recipe's
    #[arg(long)]
    pub seed: Option<u64>,

    /// Calibration sequences in all, in place of the recipe's
    #[arg(long, value_parser = positive)]
    pub samples: Option<usize>,

    /// Tokens per calibration sequence, in place of the recipe's
    #[arg(long, value_parser = positive)]
    pub length: Option<usize>,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Replace the output folder if it exists
    #[arg(short, long)]
    pub force: bool,

    /// Go on from the finished blocks of an interrupted run
    #[arg(long)]
    pub resume: bool,

    /// Keep codes at the length of their entropy where that is shorter, for storage and transfer; they are decoded when they are read
    #[arg(long)]
    pub entropy_code: bool,

    /// Write the published signed-log codec (plog2 to plog16) without scales: a weight outside [-1, 1] is an error
    #[arg(long, conflicts_with = "plan")]
    pub no_scale: bool,

    /// Print the plan as TOML, and stop; reads no weights
    #[arg(long)]
    pub dry_run: bool,

    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Afterwards continue TEXT with the dense and the quantized model [default: spark's own for spark]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Show every layer
    #[arg(short, long)]
    pub verbose: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench eval spark
      The embedded model on its own evaluation texts.
  quench eval ./Llama-3.2-1B --text en=en.txt de=de.txt
      Perplexity in each language.
  quench eval ./llama-int4 --against ./Llama-3.2-1B --text held-out.txt --json eval.json
      Also how far the quantized model is from the dense one: KL divergence and agreement.
  quench eval ./smollm2-int4 --against hf:HuggingFaceTB/SmolLM2-135M --text held-out.txt
      The dense one by its name on the Hugging Face hub.
  quench eval ./minilm-int4 --against ./minilm --data stsb-test.csv EN-WS-353-ALL.txt sst2
      A sentence encoder: Spearman's correlation with people's scores, accuracy of a linear probe, neighbours kept.
  quench eval ./resnet56-int4 --against ./resnet56 --data photos-by-class
      An image classifier: top-1, top-5, agreement with the dense model.

{CODES}"))]
pub struct Eval {
    /// Folder of the model, dense or quantized, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// Folder of the dense model to compare with, hf:OWNER/NAME, or `spark`
    #[arg(short, long, value_name = "DENSE", value_hint = ValueHint::DirPath)]
    pub against: Option<PathBuf>,

    /// What to measure on: texts, with a language as in `de=FILE`; for a sentence encoder files of pairs with scores, and
    /// folders with train.tsv and dev.tsv; for an image classifier a folder with one folder of images per class
    /// [default: spark's own texts for spark]
    #[arg(short = 't', long, visible_alias = "text", value_name = "[LANG=]PATH", num_args = 1..,
          value_hint = ValueHint::AnyPath)]
    pub data: Vec<TextSource>,

    /// Tokens per window
    #[arg(long, default_value_t = 256, value_parser = positive)]
    pub length: usize,

    /// Tokens from one window to the next; smaller than --length gives each token more context [default: --length]
    #[arg(long, value_parser = positive)]
    pub stride: Option<usize>,

    /// Windows scored per language
    #[arg(long, default_value_t = 60, value_parser = positive)]
    pub windows: usize,

    /// Windows, sentences or images that run through the model together
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub batch: usize,

    /// Precision in which products with packed weights read their input, on the CPU: int8, bf16 or f32; f32 measures what
    /// the weights alone have lost
    #[arg(long, default_value_t = Activations::F32, value_name = "PRECISION")]
    pub activations: Activations,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Write the scores as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// With --against, show how far the output of every layer is from that of the dense one
    #[arg(short, long)]
    pub verbose: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench compress`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
What every layer would cost with 1 to 8 bits is predicted from gradients of the dense model; the bytes are divided so
that the sum is small. Plans are measured, beside the largest uniform ones of as many bytes, and the best measured one is kept.

Examples:
  quench compress ./Llama-3.2-1B --ratio 8x --coherence 0.99 --calibration wiki.txt --eval held-out.txt --output ./llama-8x
      Eight times smaller than with 32 bits, and exp(-KL) at least 0.99.
  quench compress ./Llama-3.2-1B --bits 3.5 --min-agreement 0.9 --calibration wiki.txt --eval held-out.txt --output ./llama-3.5
  quench compress ./resnet56 --ratio 10 --max-accuracy-drop 0.01 --calibration photos --eval photos-by-class --output ./resnet-10x

{CODES}"))]
pub struct Compress {
    /// Folder of the dense model, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// Folder to make
    #[arg(short, long, value_hint = ValueHint::DirPath)]
    pub output: PathBuf,

    /// How many times smaller than with 32 bits a parameter: 8 or 8x
    #[arg(short, long, visible_alias = "target", value_name = "TIMES", value_parser = times, conflicts_with_all = ["bits", "bytes"])]
    pub ratio: Option<f64>,

    /// Bits a parameter, over the whole file
    #[arg(short, long, conflicts_with = "bytes")]
    pub bits: Option<f64>,

    /// Bytes of the weights' files
    #[arg(long)]
    pub bytes: Option<u64>,

    #[command(flatten)]
    pub floor: FloorArguments,

    /// Calibration data [default: spark's own texts for spark]
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<TextSource>,

    /// What plans are measured on [default: spark's own texts for spark]
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub eval: Vec<TextSource>,

    /// Windows scored per language
    #[arg(long, default_value_t = 60, value_parser = positive)]
    pub windows: usize,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Replace a result that is there already
    #[arg(short, long)]
    pub force: bool,

    /// Write what was tried, and the report of the best, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What a result has to keep.
#[derive(Debug, clap::Args)]
pub struct FloorArguments {
    /// Smallest allowed exp(-KL), 0 to 1
    #[arg(long, conflicts_with = "max_kl")]
    pub coherence: Option<f64>,

    /// Largest allowed mean KL divergence, nats per token or image; of vectors of sentences 1 - cos
    #[arg(long)]
    pub max_kl: Option<f64>,

    /// Smallest allowed top-1 agreement, 0 to 1
    #[arg(long)]
    pub min_agreement: Option<f64>,

    /// Largest allowed increase of perplexity, 0.01 for one percent
    #[arg(long)]
    pub max_perplexity_increase: Option<f64>,

    /// Largest allowed drop of accuracy, 0.01 for one percent of the images
    #[arg(long)]
    pub max_accuracy_drop: Option<f64>,

    /// Largest allowed drop of the correlation with people's scores, of pairs of sentences
    #[arg(long)]
    pub max_correlation_drop: Option<f64>,

    /// Smallest allowed overlap of the 10 nearest neighbours of sentences, 0 to 1
    #[arg(long)]
    pub min_neighbours: Option<f64>,
}

/// Arguments of `quench predict`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Gradients of the dense model, with labels that it draws itself, say what an error in each weight costs, to second order.
The codes of each candidate say what its errors are. No quantized model is run, unless --eval asks for it.
Give other data than the quantizer was calibrated on: its errors are fitted to that.

Examples:
  quench predict ./Llama-3.2-1B ./llama-int4 ./llama-int3 --calibration other.txt
  quench predict ./Llama-3.2-1B Llama-3.2-1B-Q4_K_M.gguf --calibration wiki.txt --verbose
      Files of other tools; which layers cost most.
  quench predict ./Llama-3.2-1B ./llama-int4 --calibration wiki.txt --eval held-out.txt
      The prediction beside what is measured.

{CODES}"))]
pub struct Predict {
    /// Folder of the dense model, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub dense: PathBuf,

    /// Quantized versions of it
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    pub candidates: Vec<PathBuf>,

    /// What to average gradients over: texts, with a language as in `de=FILE`, or for an image classifier folders of images
    /// [default: spark's own texts for spark]
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<TextSource>,

    /// Measure the divergence as well, on these
    #[arg(short, long, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub eval: Vec<TextSource>,

    /// Sequences or images
    #[arg(long, default_value_t = 128, value_parser = positive)]
    pub samples: usize,

    /// Tokens per sequence
    #[arg(long, default_value_t = 256, value_parser = positive)]
    pub length: usize,

    /// Sequences or images that run through the model together
    #[arg(long, default_value_t = 4, value_parser = positive)]
    pub batch: usize,

    /// Of the sequences and of the labels that are drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Write the predictions as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show every layer
    #[arg(short, long)]
    pub verbose: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench report`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
The page is one file that asks for nothing from the network. Beside it lies a JSON file with the same numbers, which can be given to
`quench report` again, together with others. Sections without data are left out; which those are, and what fills them, is printed.

Examples:
  quench report quantized.json
      What `quench quantize --json quantized.json` wrote, as report.html and report.json.
  quench report int3.json int4.json int8.json predict.json --output llama.html
      Several jobs make curves over the size, and an explorer with sliders.
  quench report results --output results.html --figures figures
      All JSON files of a folder; every plot as SVG and PNG as well.

{CODES}"))]
pub struct Report {
    /// What `quench quantize`, `eval`, `predict`, `threshold`, `measure` or `snr` wrote with --json, reports, and folders with such files
    #[arg(required = true, value_name = "FOLDER|FILE", value_hint = ValueHint::AnyPath)]
    pub inputs: Vec<PathBuf>,

    /// The page; the numbers are written beside it, with the ending .json
    #[arg(short, long, default_value = "report.html", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Write every plot as SVG and as PNG into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub figures: Option<PathBuf>,

    /// The heading [default: the names of the dense models]
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
}

/// Arguments of `quench finetune`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
The loss is the divergence of the quantized model from its dense original, and the last batches are held out to judge by.
The result is the best that was seen, packed as before.

Examples:
  quench finetune ./llama-int2 --teacher ./Llama-3.2-1B --data wiki.txt --method norms
      Gains of norms and scales alone: the codes stay, and little can go wrong.
  quench finetune ./llama-int2 --teacher ./Llama-3.2-1B --data wiki.txt --method qat --steps 1000
      Quantization-aware training: all weights, through the rounding.
  quench finetune ./llama-int2 --teacher ./Llama-3.2-1B --data wiki.txt --method lora --rank 16
      Adapters beside packed weights, merged into the codes at the end.

{CODES}"))]
pub struct Finetune {
    /// Folder of the quantized model
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// Folder of its dense original, or hf:OWNER/NAME
    #[arg(short, long, value_hint = ValueHint::DirPath)]
    pub teacher: PathBuf,

    /// What to train on: texts, with a language as in `de=FILE`, or for an image classifier folders of images
    #[arg(long, required = true, value_name = "[LANG=]PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub data: Vec<TextSource>,

    /// Folder of the result [default: MODEL-METHOD]
    #[arg(short, long, value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,

    /// What is trained: qat, lora or norms
    #[arg(short, long, value_enum, default_value = "qat")]
    pub method: Tuned,

    /// Of the adapters
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub rank: usize,

    /// Only layers of these names, `*` for anything
    #[arg(long, num_args = 1.., value_name = "PATTERN")]
    pub layers: Vec<String>,

    /// Steps
    #[arg(long, default_value_t = 300, value_parser = positive)]
    pub steps: usize,

    /// Rates of everything that is trained, times this
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub rate: f64,

    /// Batches whose gradients make one step
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub accumulate: usize,

    /// Steps between two evaluations
    #[arg(long, default_value_t = 50, value_parser = positive)]
    pub evaluate: usize,

    /// Evaluations without a better one after which the run ends
    #[arg(long, default_value_t = 5, value_parser = positive)]
    pub patience: usize,

    /// Sequences or images, those that are held out included
    #[arg(long, default_value_t = 512, value_parser = positive)]
    pub samples: usize,

    /// Batches that are held out, the last ones
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub held_out: usize,

    /// Tokens per sequence
    #[arg(long, default_value_t = 256, value_parser = positive)]
    pub length: usize,

    /// Sequences or images that run through the model together
    #[arg(long, default_value_t = 4, value_parser = positive)]
    pub batch: usize,

    /// Classes kept of what the original says; the others count together
    #[arg(long, default_value_t = 64, value_parser = positive)]
    pub top: usize,

    /// Of the sequences and their order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Go on from a run that was broken off
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,

    /// Replace an output that exists
    #[arg(short, long)]
    pub force: bool,

    /// Write what was done as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `quench finetune` trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tuned {
    /// Weights through the rounding, their scales, and gains of norms
    Qat,
    /// Adapters of low rank, merged at the end
    Lora,
    /// Gains of norms and scales
    Norms,
}

/// Arguments of `quench validate`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Metrics, estimators and bounds on inputs for which the answer is known: by a formula, or by what others have measured.

Examples:
  quench validate
  quench validate topology threshold
  quench validate --device cuda --json answers.json
      The same numbers on another device.

{CODES}"))]
pub struct Validate {
    /// Only these concepts, or parts of their names [default: all]
    pub concepts: Vec<String>,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Write the answers as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench inspect spark-gptq-int4-g128
  quench inspect spark-gptq-int4-g128 --verbose
  quench inspect model-00001-of-00004.safetensors --json layers.json
  quench inspect resnet.lsq
  quench inspect hf:OWNER/NAME-GGUF/NAME-Q4_0.gguf

{CODES}"))]
pub struct Inspect {
    /// Folder of a checkpoint, one safetensors or .lsq file, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,

    /// Write the table as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show every layer
    #[arg(short, long)]
    pub verbose: bool,
}

/// Arguments of `quench convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench convert spark-gptq-int4-g128 spark-lsq --to lsq
      A folder with model.lsq, packed to the last bit, and everything that lay beside the weights.
  quench convert spark-lsq spark-again --to quench
      Back again: the same codes and scales, bit for bit.
  quench convert spark-gptq-int4-g128 spark-small --to lsq --entropy-code
      The same with codes at the length of their entropy, which is some tenths of a bit less for each weight.
  quench convert spark-lsq spark-dense --to safetensors
      Packed layers decoded to dense f32, for programs that know no packed ones.
  quench convert spark-gptq-int4-g128 spark-vllm --to compressed-tensors
  quench convert llama-gguf-iq4_xs llama-iq4_xs.gguf --to gguf
      The same codes and scales as vLLM and transformers read them; gptq and awq likewise, and back with --to quench.
  quench convert llama-Q4_K_M.gguf llama-gptq --to gptq --requantize
      Layers that GPTQ has no grid for are rounded again, and what that loses is said; without --requantize only that.
  quench convert resnet.safetensors resnet.lsq --to lsq
      One file into one file.
  quench convert resnet20.th resnet20.safetensors --to safetensors
      The tensors of a PyTorch file; nothing else in it is read, and nothing is run.

{CODES}"))]
pub struct Convert {
    /// Folder of a checkpoint, one safetensors, .lsq or PyTorch file (.pth, .th, .pt, .bin), hf:OWNER/NAME, or `spark`
    #[arg(value_name = "IN", value_hint = ValueHint::AnyPath)]
    pub input: PathBuf,

    /// What to write: a file if the name ends in .lsq, .safetensors or .gguf, else a folder
    #[arg(value_name = "OUT", value_hint = ValueHint::AnyPath)]
    pub output: PathBuf,

    /// The container: lsq (one file, packed to the last bit), quench (safetensors with packed layers), safetensors (dense
    /// only: packed layers are decoded to f32), a dialect that other tools read: gptq, awq, compressed-tensors, or gguf
    /// (one file for llama.cpp, from layers on one of its grids)
    #[arg(short, long, value_name = "CONTAINER")]
    pub to: Container,

    /// Round packed layers that the container cannot hold as they are: onto its nearest grid, or onto CODE/GROUP/SCALE; without
    /// it they are an error that says what would be lost
    #[arg(long, value_name = "CODE/GROUP/SCALE", num_args = 0..=1, default_missing_value = "nearest")]
    pub requantize: Option<Requantize>,

    /// Keep codes at the length of their entropy where that is shorter, in lsq and quench; without it they are decoded
    #[arg(long)]
    pub entropy_code: bool,

    /// Replace the output if it exists
    #[arg(short, long)]
    pub force: bool,

    /// Write what was done as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench generate spark
  quench generate spark-gptq-int4-g128 --prompt 'Once upon a time' --max-tokens 100
  quench generate ./Llama-3.2-1B --prompt 'The capital of France is' --temperature 0
  quench generate hf:HuggingFaceTB/SmolLM2-135M --prompt 'The capital of France is'

{CODES}"))]
pub struct Generate {
    /// Folder of the model, dense or quantized, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// The text to continue [default: spark's own for spark]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Most tokens to write
    #[arg(short = 'n', long, default_value_t = 64, value_parser = positive)]
    pub max_tokens: usize,

    /// 0 always takes the likeliest token; higher is more varied
    #[arg(short, long, default_value_t = 0.8, value_parser = temperature)]
    pub temperature: f32,

    /// Draw among this many of the likeliest tokens
    #[arg(long, value_parser = positive)]
    pub top_k: Option<usize>,

    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95, value_parser = probability)]
    pub top_p: f32,

    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Precision in which products with packed weights read their input, on the CPU: int8 (the fastest), bf16 or f32
    #[arg(long, default_value_t = Activations::Int8, value_name = "PRECISION")]
    pub activations: Activations,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,
}

/// Arguments of `quench fit`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench fit ./Llama-3.2-1B
      Every machine that this program knows, for a sequence of 2048 tokens.
  quench fit ./Mistral-7B --recipe gptq-int4-g128 --device jetson-orin-nano --context 8192
      A model as a recipe would make it, without making it.
  quench fit ./llama-int4 --batch 8 --cache-bits 8 --json fit.json

{CODES}"))]
pub struct Fit {
    /// Folder of a language model, dense or quantized, hf:OWNER/NAME, or `spark`
    #[arg(value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// A machine by its name, or `all`
    #[arg(short, long, default_value = "all", value_name = "NAME")]
    pub device: String,

    /// A recipe of `quench recipes`, or a TOML file: the size is that of what it would make of the dense model
    #[arg(short, long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,

    /// Tokens of a sequence, prompt and answer
    #[arg(long, default_value_t = 2048, value_parser = positive)]
    pub context: usize,

    /// Sequences at a time
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub batch: usize,

    /// Bits of a number in the cache of keys and values
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=32))]
    pub cache_bits: u64,

    /// Tokens of the prompt that run through the model together
    #[arg(long, default_value_t = 512, value_parser = positive)]
    pub chunk: usize,

    /// Write everything as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
}

/// Arguments of `quench bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench bench spark
  quench bench ./llama-int4 --against ./Llama-3.2-1B
      Side by side, with the ratios to the dense model.
  quench bench ./llama-int4 ./llama-int8 --prompt 128,512 --generate 32 --json bench.json
      Several models and lengths; ratios to the first model.
  quench bench ./llama-int4 --prompt 0 --activations int8,bf16,f32 --threads 1
      Generation alone, in each precision, on one thread.

{CODES}"))]
pub struct Bench {
    /// Folders of models, dense or quantized, hf:OWNER/NAME, or `spark`; no tokenizer is needed
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub models: Vec<PathBuf>,

    /// Folder of the dense model to compare with, hf:OWNER/NAME, or `spark`; without it, ratios are to the first MODEL
    #[arg(short, long, value_name = "DENSE", value_hint = ValueHint::DirPath)]
    pub against: Option<PathBuf>,

    /// Tokens of the prompts, read in one pass each; 0 leaves them out [default: 512, or the longest that fits the models]
    #[arg(short, long, value_name = "N,..", value_delimiter = ',')]
    pub prompt: Vec<usize>,

    /// Tokens to generate, one by one after a single token; 0 leaves this out [default: 64]
    #[arg(short = 'n', long, value_name = "N,..", value_delimiter = ',')]
    pub generate: Vec<usize>,

    /// Timed runs of each, after one that is not timed
    #[arg(short, long, default_value_t = 3, value_parser = positive)]
    pub repetitions: usize,

    /// Precisions in which products with packed weights read their input, on the CPU: int8 (the fastest), bf16 or f32
    #[arg(long, default_value = "int8", value_name = "PRECISION,..", value_delimiter = ',')]
    pub activations: Vec<Activations>,

    /// Where to compute: auto, flex, ndarray, wgpu, vulkan, metal, webgpu, cuda or rocm, and :N for the N-th of them
    #[arg(short, long, default_value = "auto", value_name = "NAME[:N]")]
    pub device: Wanted,

    /// Threads on the CPU; 0 takes all
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,

    /// Seed of the random tokens
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Write the figures as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// Measure MODEL in this process, and tell it to the process that started this one
    #[arg(long, hide = true)]
    pub measure: bool,
}

/// Arguments of `quench snr`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench snr
      Gaussian weights at 4 to 9 bits.
  quench snr --bits 3..6 --source laplace --plot laplace.svg
      Heavy tails, and a picture.
  quench snr --bits 5 --source spark:model.layers.0.mlp.down_proj --json snr.json
      One matrix of a model.
  quench snr --source ./Llama-3.2-1B
      Matrices spread over a model.

{CODES}"))]
pub struct Snr {
    /// Widths of a code: one from 2 to 12, or a range with both ends
    #[arg(short, long, default_value = "4..9", value_name = "N|N..N")]
    pub bits: Widths,

    /// Where the weights come from: gaussian, laplace, uniform, or a dense model, and after a colon one of its tensors
    #[arg(short, long, default_value = "gaussian", value_name = "NAME|MODEL[:TENSOR]")]
    pub source: Origin,

    /// Seed of the samples of a named source; rows scaled by the largest weight depend on it
    #[arg(long, default_value_t = SEED)]
    pub seed: u64,

    /// Draw the ratios over bits per weight; the name ends in .png or .svg
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plot: Option<PathBuf>,

    /// Write the tables as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `quench recipes`.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES, after_long_help = format!("\
Examples:
  quench recipes
  quench recipes gptq-int4-g128 > my-recipe.toml
  quench quantize --recipe my-recipe.toml

{CODES}"))]
pub struct Recipes {
    /// Print this one, as TOML
    pub name: Option<String>,
}

/// A ratio above 0, with an `x` behind it or without.
fn times(text: &str) -> Result<f64, String> {
    match text.strip_suffix('x').unwrap_or(text).parse() {
        Ok(ratio) if ratio > 0.0 && f64::is_finite(ratio) => Ok(ratio),
        _ => Err("a number of times above 0 is expected, such as 8 or 8x".to_owned()),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(value) => Ok(value),
        Err(error) => Err(error.to_string()),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    let value = number(text)?;
    if value >= 0.0 && value.is_finite() { Ok(value) } else { Err("it must be 0 or more".to_owned()) }
}

fn probability(text: &str) -> Result<f32, String> {
    let value = number(text)?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("it must be above 0 and at most 1".to_owned()) }
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "it is not a number".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn several_texts_after_one_option() {
        let args =
            Args::try_parse_from(["quench", "quantize", "m", "--calibration", "en=a", "b", "-c", "de=c", "--force"])
                .unwrap();
        let Command::Quantize(quantize) = args.command else { panic!("{args:?}") };
        assert_eq!(quantize.model.to_str(), Some("m"));
        let languages: Vec<_> = quantize.calibration.iter().map(|text| text.language.as_deref()).collect();
        assert_eq!(languages, [Some("en"), None, Some("de")]);
        assert!(quantize.force && !quantize.resume);
    }

    #[test]
    fn the_embedded_model_is_the_default() {
        let args = Args::try_parse_from(["quench", "quantize"]).unwrap();
        let Command::Quantize(quantize) = args.command else { panic!("{args:?}") };
        assert_eq!(quantize.model.to_str(), Some("spark"));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (option, value) in
            [("--top-p", "0"), ("--top-p", "1.5"), ("--temperature", "-1"), ("--max-tokens", "0"), ("--top-k", "x")]
        {
            let error = Args::try_parse_from(["quench", "generate", "m", &format!("{option}={value}")]).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
    }
}
