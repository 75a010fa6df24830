//! Models on the Hugging Face hub: their names, the cache that all programs share, and downloads that go on.
//!
//! | question | answer |
//! | --- | --- |
//! | which model is meant? | [`Reference`]: `hf:OWNER/NAME`, with a revision or a GGUF file where one is named |
//! | where does it lie on this machine? | [`Cache`]: the layout of `huggingface_hub`, so nothing is downloaded twice |
//! | which of its files does a model need? | configuration, tokenizer and one set of weights: `files.rs` |
//! | how does it get here? | [`Hub::fetch`] (feature `client`): a folder, or a GGUF file, as any other MODEL |
//! | and if the connection breaks? | it goes on where it was, in the same run or in the next |
//!
//! A file appears under its name when it has the length and, of weights, the SHA-256 that the hub says. The token goes to
//! the hub's own host, and nowhere that it redirects to. Whatever goes wrong is a [`HubError`] that says what to do.
//!
//! No Burn, no async runtime: one blocking connection.
//!
//! # Example
//!
//! ```
//! use quench_hub::{Cache, Reference};
//!
//! let reference: Reference = "hf:meta-llama/Llama-3.2-1B@4e20de3".parse()?;
//! assert_eq!(reference.repository(), "meta-llama/Llama-3.2-1B");
//! assert_eq!(reference.revision(), "4e20de3");
//! assert_eq!(reference.to_string(), "hf:meta-llama/Llama-3.2-1B@4e20de3");
//!
//! // A folder of the cache says what it is a copy of.
//! let folder = Cache::new("/cache").snapshot("meta-llama/Llama-3.2-1B", "4e20de362430cd3b72f300e6b0f18e50e7166e08");
//! let found = Cache::reference(&folder).expect("a snapshot");
//! assert_eq!(found.repository(), "meta-llama/Llama-3.2-1B");
//! # Ok::<(), quench_hub::HubError>(())
//! ```
//!
//! With the feature `client`:
//!
//! ```no_run
//! # #[cfg(feature = "client")] {
//! use std::ops::ControlFlow;
//!
//! use quench_hub::{Hub, Settings};
//!
//! let hub = Hub::new(Settings::from_environment()?)?;
//! let folder = hub.fetch(&"hf:HuggingFaceTB/SmolLM2-135M".parse()?, &mut |_| ControlFlow::Continue(()))?;
//! assert!(folder.join("config.json").is_file());
//! # }
//! # Ok::<(), quench_hub::HubError>(())
//! ```

#![deny(missing_docs)]

mod cache;
mod error;
mod reference;

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod download;
#[cfg(feature = "client")]
mod files;
#[cfg(feature = "client")]
mod hub;
#[cfg(feature = "client")]
mod listing;
#[cfg(feature = "client")]
mod settings;

pub use cache::Cache;
pub use error::HubError;
pub use reference::Reference;

#[cfg(feature = "client")]
pub use hub::{Event, Hub, Observe};
#[cfg(feature = "client")]
pub use settings::{Patience, Settings, Token};

#[cfg(all(test, feature = "client"))]
mod attacks;
#[cfg(all(test, feature = "client"))]
mod testing;
