//! [`ResNetConfig`]: the sizes of a residual network.

use std::path::Path;

use crate::ModelError;
use crate::fields::Fields;
use crate::images::Preparation;

/// The `model_type` of a configuration, by layout.
pub(crate) const MODEL_TYPES: [&str; 2] = ["resnet_cifar", "resnet_torchvision"];

/// The key of a configuration whose tensors have the norms in the convolutions, with the value `true`.
pub const FOLDED: &str = "folded";

/// What a residual network is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// For which images it was made, and so how it begins and what its shortcuts are.
    pub layout: Layout,
    /// What a block is.
    pub unit: Unit,
    /// Channels of each stage, before a bottleneck's expansion.
    pub widths: Vec<usize>,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// Width of the output.
    pub classes: usize,
    /// The names of the classes, in order; empty where the configuration has none.
    pub labels: Vec<String>,
    /// Whether batch norms are folded into the convolutions, which then have biases.
    pub folded: bool,
    /// How images are made ready.
    pub input: Preparation,
}

/// For which images a network was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 32 by 32 pixels: a first convolution of 3 by 3, three stages, shortcuts without weights.
    Cifar,
    /// 224 by 224 pixels: a first convolution of 7 by 7 and a pool, four stages, projected shortcuts.
    Torchvision,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Two convolutions of 3 by 3.
    Basic,
    /// Convolutions of 1, 3 and 1, the last four times as wide.
    Bottleneck,
}

impl Unit {
    /// Output channels over width.
    pub const fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

impl ResNetConfig {
    /// The network for CIFAR with so many layers, `6 n + 2`: 20, 32, 44, 56, 110; `None` for another number.
    pub fn cifar(depth: usize) -> Option<Self> {
        let blocks = depth.checked_sub(2).filter(|rest| rest.is_multiple_of(6)).map(|rest| rest / 6)?;
        ([20, 32, 44, 56, 110].contains(&depth)).then(|| Self {
            layout: Layout::Cifar,
            unit: Unit::Basic,
            widths: vec![16, 32, 64],
            blocks: vec![blocks; 3],
            classes: 10,
            labels: Vec::new(),
            folded: false,
            input: Preparation { size: [32, 32], ..Preparation::imagenet() },
        })
    }

    /// The network of torchvision with so many layers: 18, 34, 50, 101, 152; `None` for another number.
    pub fn torchvision(depth: usize) -> Option<Self> {
        let (unit, blocks) = match depth {
            18 => (Unit::Basic, [2, 2, 2, 2]),
            34 => (Unit::Basic, [3, 4, 6, 3]),
            50 => (Unit::Bottleneck, [3, 4, 6, 3]),
            101 => (Unit::Bottleneck, [3, 4, 23, 3]),
            152 => (Unit::Bottleneck, [3, 8, 36, 3]),
            _ => return None,
        };
        Some(Self {
            layout: Layout::Torchvision,
            unit,
            widths: vec![64, 128, 256, 512],
            blocks: blocks.to_vec(),
            classes: 1000,
            labels: Vec::new(),
            folded: false,
            input: Preparation::imagenet(),
        })
    }

    /// Reads `config.json`: `model_type` is `resnet_cifar` or `resnet_torchvision`; `depth` and `num_classes` give the sizes,
    /// `labels`, `folded` and `input` (`size`, `mean`, `std`) may be absent.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not JSON, the architecture is unknown, or a key is absent or makes no model; naming
    /// file and key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let fields = Fields::read(path)?;
        let depth = fields.size("depth")?;
        let (config, known) = match fields.text("model_type")? {
            "resnet_cifar" => (Self::cifar(depth), "20, 32, 44, 56 or 110"),
            "resnet_torchvision" => (Self::torchvision(depth), "18, 34, 50, 101 or 152"),
            other => return Err(fields.unsupported("model_type", other, &MODEL_TYPES)),
        };
        let mut config = config.ok_or_else(|| fields.wrong("depth", known))?;
        config.classes = fields.size("num_classes")?;
        if let Some(labels) = fields.optional_texts("labels")? {
            if labels.len() != config.classes {
                return Err(fields.wrong("labels", format!("a list of num_classes {} names", config.classes)));
            }
            config.labels = labels.into_iter().map(str::to_owned).collect();
        }
        config.folded = fields.optional_flag(FOLDED)?.unwrap_or(false);
        if let Some(input) = fields.object("input")? {
            config.input = Preparation::read(&input)?;
        }
        Ok(config)
    }
}
