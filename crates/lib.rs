#![doc = include_str!("../README.md")]

pub mod guide;

pub use quench_checkpoint as checkpoint;
pub use quench_eval as eval;
pub use quench_foreign as foreign;
pub use quench_format as format;
pub use quench_hub as hub;
pub use quench_job as job;
pub use quench_kernels as kernels;
pub use quench_metrics as metrics;
pub use quench_models as models;
pub use quench_nn as nn;
pub use quench_quantize as quantize;
pub use quench_report as report;
pub use quench_tune as tune;

pub use quench_foreign::{finish_qat, prepare_qat, quantize_module, quantize_planned};
