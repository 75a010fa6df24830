//! [`ResNet`]: residual networks for images, in the layout for CIFAR and in that of torchvision.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::module::max_pool2d;
use burn::tensor::ops::{MaxPoolOptions, PadMode};
use burn::tensor::{Device, Tensor, activation::relu};
use quench_checkpoint::{Folder, Source};
use quench_nn::{LayerInfo, LoadError, Model, Part, Section, Tap, Window};

use crate::ModelError;
use crate::load::{Layer, Loader, Order};

mod config;
mod convolution;
mod folded;

pub(crate) use config::MODEL_TYPES;
pub use config::{FOLDED, Layout, ResNetConfig, Unit};
use convolution::Convolution;

/// A residual network.
///
/// Every convolution is followed by a batch norm in inference form, kept apart or [folded](ResNet::fold) into it. The
/// convolution before the first block is the network's `Embedding` section: plans leave it dense unless told otherwise.
///
/// Source: He et al. 2016, "Deep residual learning for image recognition".
#[derive(Clone)]
pub struct ResNet {
    config: Arc<ResNetConfig>,
    source: Arc<dyn Source>,
    device: Device,
    stem: Convolution,
    blocks: Vec<Block>,
    head_site: String,
    head: Layer,
}

impl fmt::Debug for ResNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResNet").field("path", &self.source.path()).field("config", &self.config).finish()
    }
}

/// What leads past the convolutions of a block.
#[derive(Clone)]
enum Shortcut {
    /// The input itself.
    Identity,
    /// Option A of the paper: every stride-th pixel, and so many channels of zeros on either side.
    Pad { stride: usize, channels: usize },
    /// Option B: a convolution of one pixel.
    Project(Box<Convolution>),
}

/// `y = relu(f(x) + shortcut(x))`, where `f` is two or three convolutions with `relu` between them.
#[derive(Clone)]
struct Block {
    convolutions: Vec<Convolution>,
    shortcut: Shortcut,
}

impl Block {
    /// A block from `input` channels to `width`, times 4 in a bottleneck.
    fn new(
        loader: &Loader<'_>,
        config: &ResNetConfig,
        input: usize,
        width: usize,
        stride: usize,
    ) -> Result<Self, ModelError> {
        let output = width * config.unit.expansion();
        let strided = |window: Window, stride| Window { stride: [stride; 2], ..window };
        let (one, three) = (Window::square(1), Window { padding: [1; 2], ..Window::square(3) });
        let make = |number: usize, shape: [usize; 2], window: Window| {
            Convolution::new(loader, config.folded, [&format!("conv{number}"), &format!("bn{number}")], shape, window)
        };
        let convolutions = match config.unit {
            Unit::Basic => {
                vec![make(1, [width, input], strided(three, stride))?, make(2, [width, width], three)?]
            }
            Unit::Bottleneck => vec![
                make(1, [width, input], one)?,
                make(2, [width, width], strided(three, stride))?,
                make(3, [output, width], one)?,
            ],
        };
        let shortcut = match config.layout {
            _ if stride == 1 && input == output => Shortcut::Identity,
            Layout::Cifar => Shortcut::Pad { stride, channels: (output - input) / 2 },
            Layout::Torchvision => {
                let loader = loader.at("downsample");
                let projection =
                    Convolution::new(&loader, config.folded, ["0", "1"], [output, input], strided(one, stride))?;
                Shortcut::Project(Box::new(projection))
            }
        };
        Ok(Self { convolutions, shortcut })
    }

    /// `x`: `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    fn forward<T: Tap>(&self, x: Tensor<4>, tap: &mut T) -> Tensor<4> {
        let (last, first) = self.convolutions.split_last().unwrap_or_else(|| unreachable!("a block has convolutions"));
        let y = first.iter().fold(x.clone(), |y, convolution| relu(convolution.forward(y, tap)));
        let y = last.forward(y, tap);
        let shortcut = match &self.shortcut {
            Shortcut::Identity => x,
            Shortcut::Pad { stride, channels } => {
                let every = burn::tensor::Slice::new(0, None, *stride as isize);
                let full = burn::tensor::Slice::full();
                let x = x.slice([full, full, every, every]);
                let zeros = (*channels, *channels);
                // `pad` names the dimensions from the third last on: channels, height, width.
                x.pad([zeros, (0, 0), (0, 0)], PadMode::Constant(0.0))
            }
            Shortcut::Project(convolution) => convolution.forward(x, tap),
        };
        relu(y + shortcut)
    }

    fn projection(&self) -> Option<&Convolution> {
        match &self.shortcut {
            Shortcut::Project(convolution) => Some(convolution),
            _ => None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Convolution> {
        self.convolutions.iter().chain(self.projection())
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Convolution> {
        let projection = match &mut self.shortcut {
            Shortcut::Project(convolution) => Some(&mut **convolution),
            _ => None,
        };
        self.convolutions.iter_mut().chain(projection)
    }
}

impl ResNet {
    /// Opens a folder of `config.json` and weights of any kind that [`Folder`] reads; the tensors have the names that torch
    /// gives them.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, the architecture another, a tensor missing or of another shape than the
    /// configuration calls for; naming the file and the key or tensor.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ResNetConfig::read(&folder.join("config.json"))?;
        Self::new(config, Arc::new(Folder::open(folder)?), device)
    }

    /// A network over any source of tensors with torch's names.
    ///
    /// # Errors
    ///
    /// As [`ResNet::open`].
    pub fn new(config: ResNetConfig, source: Arc<dyn Source>, device: &Device) -> Result<Self, ModelError> {
        let root = Loader { source: &source, device, path: String::new(), block: None, order: Order::OutIn };
        let mut channels = config.widths[0];
        let window = match config.layout {
            Layout::Cifar => Window { padding: [1; 2], ..Window::square(3) },
            Layout::Torchvision => Window { padding: [3; 2], stride: [2; 2], ..Window::square(7) },
        };
        let stem = Convolution::new(&root, config.folded, ["conv1", "bn1"], [channels, 3], window)?;
        let mut blocks = Vec::new();
        for (stage, (width, count)) in config.widths.iter().zip(&config.blocks).enumerate() {
            for place in 0..*count {
                let stride = if stage > 0 && place == 0 { 2 } else { 1 };
                let loader = root.at(&format!("layer{}.{place}", stage + 1));
                let loader = Loader { block: Some(blocks.len()), ..loader };
                blocks.push(Block::new(&loader, &config, channels, *width, stride)?);
                channels = width * config.unit.expansion();
            }
        }
        let name = match config.layout {
            Layout::Cifar => "linear",
            Layout::Torchvision => "fc",
        };
        let head_site = format!("{name}.input");
        let head = root.linear(name, [config.classes, channels], true, &head_site)?;
        let device = device.clone();
        Ok(Self { config: Arc::new(config), stem, blocks, head_site, head, source, device })
    }

    /// What the network is made of.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// Where the weights come from.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Opens the network's source again with its batch norms folded into the convolutions, which changes nothing of what is
    /// computed. A network whose norms are folded stays as it is.
    ///
    /// # Errors
    ///
    /// [`ModelError::Packed`] if a layer is packed: norms are folded before quantization; and whatever is wrong with the norms.
    pub fn fold(&mut self) -> Result<(), ModelError> {
        if !self.config.folded {
            let source = folded::folded(self)?;
            let config = ResNetConfig { folded: true, ..(*self.config).clone() };
            *self = Self::new(config, Arc::new(source), &self.device)?;
        }
        Ok(())
    }

    /// The names of each convolution and of the norm after it.
    fn norms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.convolutions().filter_map(|convolution| Some((convolution.info.name.as_str(), convolution.norm()?)))
    }

    fn convolutions(&self) -> impl Iterator<Item = &Convolution> {
        [&self.stem].into_iter().chain(self.blocks.iter().flat_map(Block::all))
    }

    /// Where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `x`: `[batch, 3, height, width]` → `[batch, classes]`.
    pub fn classify(&self, x: Tensor<4>) -> Tensor<2> {
        self.forward(x, &mut ()).squeeze_dim(1)
    }
}

impl Model for ResNet {
    /// Images, `[batch, 3, height, width]`, normalised as the network was trained.
    type Input = Tensor<4>;
    /// Features, `[batch, channels, height, width]`.
    type Carry = Tensor<4>;

    fn layers(&self) -> Vec<LayerInfo> {
        self.convolutions().map(|convolution| &convolution.info).chain([&self.head.info]).cloned().collect()
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn load(&mut self, section: Section) -> Result<(), LoadError> {
        match section {
            Section::Embedding => self.stem.load()?,
            Section::Block(index) => self.blocks[index].all_mut().try_for_each(Convolution::load)?,
            Section::Head => self.head.load()?,
        }
        Ok(())
    }

    fn release(&mut self, section: Section) {
        match section {
            Section::Embedding => self.stem.release(),
            Section::Block(index) => self.blocks[index].all_mut().for_each(Convolution::release),
            Section::Head => self.head.release(),
        }
    }

    fn start<T: Tap>(&self, input: Tensor<4>, tap: &mut T) -> Tensor<4> {
        let x = relu(self.stem.forward(input, tap));
        match self.config.layout {
            Layout::Cifar => x,
            Layout::Torchvision => {
                max_pool2d(x, MaxPoolOptions { stride: [2; 2], padding: [(1, 1); 2], ..MaxPoolOptions::new([3; 2]) })
            }
        }
    }

    fn block<T: Tap>(&self, index: usize, carry: Tensor<4>, tap: &mut T) -> Tensor<4> {
        self.blocks[index].forward(carry, tap)
    }

    /// The mean over the image and the head: carry → logits `[batch, 1, classes]`.
    fn finish<T: Tap>(&self, carry: Tensor<4>, tap: &mut T) -> Tensor<3> {
        let [batch, channels, height, width] = carry.dims();
        let x = carry.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, 1, channels]);
        let x = tap.tap(&self.head_site, x);
        self.head.forward(x, tap)
    }

    fn open(&mut self, section: Section) -> Vec<Part<'_>> {
        match section {
            Section::Embedding => vec![self.stem.open()],
            Section::Block(index) => self.blocks[index].all_mut().map(Convolution::open).collect(),
            Section::Head => vec![self.head.open()],
        }
    }
}
