//! Models read from a Hugging Face folder.
//!
//! One decoder, written once, serves Llama, Mistral, Gemma 1 to 3, Qwen 2 and 3, Phi 3 and GPT-2: what differs between them is
//! data in a [`DecoderConfig`]. [`Encoder`] is BERT, and makes vectors of sentences; [`ResNet`] reads images. Their layers bear
//! their Hugging Face names and are dense or packed, as the folder has them. Dense weights are read block by block, through [`Model::load`](quench_nn::Model::load) or on first use.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use burn::tensor::Device;
//! use quench_models::generate::{Sampling, generate};
//! use quench_models::{ModelError, Tokenizer, open};
//! use quench_nn::Model;
//!
//! fn continue_text(folder: &Path, device: &Device, prompt: &str) -> Result<String, ModelError> {
//!     let tokenizer = Tokenizer::open(folder)?;
//!     let mut decoder = open(folder, device)?;
//!     decoder.load_all()?;
//!     let ids = tokenizer.encode(prompt, true)?;
//!     let sampling = Sampling { temperature: 0.8, top_p: Some(0.95), ..Sampling::default() };
//!     let new = generate(&decoder, &ids, &sampling, tokenizer.eos(), |_| ControlFlow::Continue(()))?;
//!     tokenizer.decode(&new)
//! }
//! ```

mod attention;
mod cache;
mod companion;
mod config;
mod context;
mod decoder;
mod encoder;
mod error;
mod family;
mod fields;
mod images;
mod joint;
mod kind;
mod load;
mod mlp;
mod norm;
mod positions;
mod projection;
mod resnet;
mod rope;
mod tokenizer;

pub mod generate;
pub mod spark;
pub mod text;

pub use cache::Cache;
pub use companion::companion;
pub use config::{
    Activation, AttentionBias, DecoderConfig, Family, Feed, Gain, LayerConfig, NormKind, Norms, Positions, Projections,
    TIED, TURNED_MLP,
};
pub use decoder::{Carry, Decoder, open};
pub use encoder::{Encoder, EncoderConfig, Hidden, Sentences};
pub use error::ModelError;
pub use generate::ids;
pub use images::{Preparation, image_files};
pub use kind::Kind;
pub use resnet::{FOLDED, Layout, ResNet, ResNetConfig, Unit};
pub use rope::{Rope, RopeScaling};
pub use tokenizer::{TextStream, Tokenizer};
