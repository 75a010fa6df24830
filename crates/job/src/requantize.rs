//! Packed layers that a container cannot hold as they are: onto which grid they go, and what that loses.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use quench_checkpoint::dialect::{self, Dialect, Grid};
use quench_checkpoint::gguf::{self, BlockType};
use quench_checkpoint::{CheckpointError, Source};
use quench_format::{Bits, Code, FloatKind, FormatError, Group, Packed, Scale, Scheme};
use quench_quantize::{Matrix, Method, ScaleSearch};
use serde::Serialize;

use crate::convert::is_table;
use crate::{Container, JobError, Observe, Step, layer_kind};

/// What is done with packed layers that a container cannot hold as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requantize {
    /// An error, which says what the nearest grids would lose.
    #[default]
    Refuse,
    /// Rounded onto the nearest grid that the container has. Spelled `nearest`.
    Nearest,
    /// Rounded onto this one. Spelled as the scheme is.
    To(Scheme),
}

impl FromStr for Requantize {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        if text == "nearest" { Ok(Self::Nearest) } else { text.parse().map(Self::To) }
    }
}

/// What layers of one kind lose on another grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Their name, with `*` for the number of a block.
    pub kind: String,
    /// How many there are.
    pub layers: usize,
    /// How they are coded.
    pub from: String,
    /// How they are, or would be, coded then.
    pub to: String,
    /// `‖Ŵ' − Ŵ‖ / ‖Ŵ‖` of all of them together, against the weights that they stand for now; 0 where only the codes are others.
    pub error: f64,
    /// The largest of one layer.
    pub worst: f64,
    /// Which layer that is.
    pub worst_layer: String,
    /// What the container lacks.
    pub reason: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, layers, from, to, error, worst, .. } = self;
        write!(f, "{kind} ({layers}), {from} -> {to}: ")?;
        match *layers {
            _ if *worst == 0.0 => f.write_str("the same weights"),
            1 => write!(f, "relative error {error:.2e}"),
            _ => write!(f, "relative error {error:.2e}, at most {worst:.2e}"),
        }
    }
}

/// The packed layers of a source as a container holds them, but for tables that it holds dense; those that had to be requantized stay in memory until they are written.
pub(crate) struct Fitted<'a> {
    source: &'a dyn Source,
    requantized: BTreeMap<String, Packed>,
    /// What all layers are as they will be written, sorted by name.
    grids: Vec<(String, Grid)>,
    losses: Vec<Loss>,
}

impl<'a> Fitted<'a> {
    /// Asks of every packed layer whether the container holds it, and requantizes those that it does not, as `how` says.
    ///
    /// # Errors
    /// [`JobError::Unfit`] with what would be lost, if that is not wanted; a layer that fits no grid of the container;
    /// [`CheckpointError::Stopped`] if `observe` broke off.
    pub(crate) fn new(
        source: &'a dyn Source,
        container: Container,
        how: Requantize,
        observe: Observe<'_>,
    ) -> Result<Self, JobError> {
        let mut fitted = Self { source, requantized: BTreeMap::new(), grids: Vec::new(), losses: Vec::new() };
        let mut unfit = Vec::new();
        let tables = container.foreign().is_some();
        for layer in dialect::layers(source).into_iter().filter(|layer| !(tables && is_table(layer))) {
            let packed = read(source, &layer)?;
            let lacking = lacking(container, &layer, &packed).err();
            fitted.grids.push((layer.clone(), Grid::from(&packed)));
            unfit.extend(lacking.map(|reason| (layer, packed.scheme(), reason)));
        }
        let fitting: Vec<Scheme> = {
            let fits = |layer: &String| unfit.iter().all(|(other, ..)| other != layer);
            fitted.grids.iter().filter(|(layer, _)| fits(layer)).map(|(_, grid)| grid.scheme).collect()
        };
        let targets = Targets { container, fitting, unfit: unfit.iter().map(|(_, scheme, _)| *scheme).collect() };
        let stopped = || CheckpointError::Stopped { file: source.path().to_owned() };
        if !unfit.is_empty() && observe(Step::Phase { name: "requantize", total: unfit.len() }).is_break() {
            return Err(stopped().into());
        }
        let of = unfit.len();
        let mut tallies: Vec<Tally> = Vec::new();
        for (done, (layer, from, reason)) in unfit.into_iter().enumerate() {
            if observe(Step::Progress { done, of, what: &layer }).is_break() {
                return Err(stopped().into());
            }
            let before = read(source, &layer)?;
            let candidates = match how {
                Requantize::To(scheme) => vec![scheme],
                Requantize::Refuse | Requantize::Nearest => targets.of(from, before.shape()),
            };
            let Rounded { packed, error, norm } = match best(container, &layer, &before, candidates)? {
                Ok(rounded) => rounded,
                Err(refused) => {
                    let reason = refused.unwrap_or(reason);
                    return Err(JobError::NoGrid { layer, scheme: from.to_string(), container, reason });
                }
            };
            let (kind, relative) = (layer_kind(&layer), ratio(error, norm));
            let (from, to, worst_layer) = (from.to_string(), packed.scheme().to_string(), layer.clone());
            let loss = Loss { kind, layers: 1, from, to, error: relative, worst: relative, worst_layer, reason };
            Tally { loss, error, norm }.add_to(&mut tallies);
            if how != Requantize::Refuse {
                let grid = fitted.grids.iter_mut().find(|(name, _)| *name == layer);
                grid.into_iter().for_each(|(_, grid)| *grid = Grid::from(&packed));
                fitted.requantized.insert(layer, packed);
            }
        }
        fitted.losses = tallies.into_iter().map(|tally| tally.loss).collect();
        match how {
            Requantize::Refuse if !fitted.losses.is_empty() => {
                Err(JobError::Unfit { path: source.path().to_owned(), container, losses: fitted.losses })
            }
            _ => Ok(fitted),
        }
    }

    /// A packed layer as it will be written.
    pub(crate) fn read(&self, layer: &str) -> Result<Packed, CheckpointError> {
        match self.requantized.get(layer) {
            Some(packed) => Ok(packed.clone()),
            None => read(self.source, layer),
        }
    }

    /// What the layers are, by name.
    pub(crate) fn grids(&self) -> Vec<(&str, Grid)> {
        self.grids.iter().map(|(layer, grid)| (layer.as_str(), *grid)).collect()
    }

    /// How many layers are not what they were.
    pub(crate) fn changed(&self) -> usize {
        self.requantized.len()
    }

    /// What they lost.
    pub(crate) fn losses(&self) -> &[Loss] {
        &self.losses
    }
}

/// What layers of one kind lost so far, with the squares of all their differences and weights.
struct Tally {
    loss: Loss,
    error: f64,
    norm: f64,
}

impl Tally {
    /// Adds what a layer lost to what others of its kind did on the same grids.
    fn add_to(self, tallies: &mut Vec<Self>) {
        let key = |loss: &Loss| (loss.kind.clone(), loss.from.clone(), loss.to.clone());
        let Some(known) = tallies.iter_mut().find(|tally| key(&tally.loss) == key(&self.loss)) else {
            tallies.push(self);
            return;
        };
        (known.error, known.norm) = (known.error + self.error, known.norm + self.norm);
        (known.loss.layers, known.loss.error) = (known.loss.layers + 1, ratio(known.error, known.norm));
        if self.loss.worst > known.loss.worst {
            (known.loss.worst, known.loss.worst_layer) = (self.loss.worst, self.loss.worst_layer);
        }
    }
}

/// A packed layer in whichever dialect the source has it.
pub(crate) fn read(source: &dyn Source, layer: &str) -> Result<Packed, CheckpointError> {
    let missing = || CheckpointError::MissingTensor { path: source.path().to_path_buf(), tensor: layer.to_owned() };
    dialect::read(source, layer)?.ok_or_else(missing)
}

/// What a container lacks for a layer.
fn lacking(container: Container, layer: &str, packed: &Packed) -> Result<(), String> {
    match (container, container.foreign()) {
        (_, Some(dialect)) => dialect.write(layer, packed).map(drop).map_err(|refused| refused.to_string()),
        (Container::Gguf, _) => {
            let fits = gguf::fits(packed.scheme(), packed.shape(), packed.parts().order.is_some());
            fits.map(drop).map_err(|reason| format!("{} {reason}", Dialect::Gguf))
        }
        _ => Ok(()),
    }
}

/// A layer on another grid, with the squares of its difference and of its weights.
struct Rounded {
    packed: Packed,
    error: f64,
    norm: f64,
}

/// The candidate with the least error among those that the container holds. Codes that have a place on the grid stay, and only their
/// scales are rounded; all others are rounded to the nearest code, with scales that leave the least squared error. Where it holds none,
/// what it lacks for the last of them.
fn best(
    container: Container,
    layer: &str,
    before: &Packed,
    candidates: Vec<Scheme>,
) -> Result<Result<Rounded, Option<String>>, JobError> {
    let [rows, columns] = before.shape();
    let w = Matrix { rows, columns, values: before.decode() };
    let norm = squares(w.values.iter().copied());
    let mut best: Result<Rounded, Option<String>> = Err(None);
    let consider = |packed: Packed, best: &mut Result<Rounded, Option<String>>| {
        let error = squares(w.values.iter().zip(packed.decode()).map(|(w, other)| w - other));
        match (lacking(container, layer, &packed), &best) {
            (Ok(()), Ok(other)) if error >= other.error => {}
            (Ok(()), _) => *best = Ok(Rounded { packed, error, norm }),
            (Err(_), Ok(_)) => {}
            (Err(reason), Err(_)) => *best = Err(Some(reason)),
        }
    };
    for scheme in &candidates {
        before.regrid(*scheme).into_iter().for_each(|packed| consider(packed, &mut best));
    }
    if best.as_ref().is_ok_and(|best| best.error == 0.0) {
        return Ok(best);
    }
    for scheme in candidates {
        let rounded = Method::rtn(ScaleSearch::Mse).quantize(layer, &w, scheme, None)?;
        consider(rounded.packed, &mut best);
    }
    Ok(best)
}

fn squares(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum()
}

/// The relative error, of squares.
fn ratio(error: f64, norm: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

/// The grids of a container that are near to a scheme; some of the choices are for all layers together.
struct Targets {
    container: Container,
    /// The schemes of the layers that stay as they are, and of those that do not.
    fitting: Vec<Scheme>,
    unfit: Vec<Scheme>,
}

impl Targets {
    /// Grids with codes of as many bits as there are, or of the next width that the container has; in groups that divide the old ones.
    fn of(&self, scheme: Scheme, [rows, columns]: [usize; 2]) -> Vec<Scheme> {
        // The bits of one weight alone, also where they are shared.
        let bits = scheme.code.bits();
        let scale = Scale::Float(FloatKind::F16);
        let group = match scheme.group {
            Group::Columns(_) => scheme.group,
            Group::Tensor | Group::Row => Group::Row,
        };
        match self.container {
            Container::Gguf => Self::blocks(bits, columns),
            Container::Gptq => {
                let affine = self.has_zeros();
                let fills =
                    |width: u32| [rows, columns].iter().all(|extent| (extent * width as usize).is_multiple_of(32));
                let width = [2, 3, 4, 8].into_iter().find(|width| *width >= bits.min(8) && fills(*width));
                let code = integer(width.unwrap_or(8), affine);
                code.map(|code| Scheme::new(code, group, scale)).into_iter().collect()
            }
            Container::Awq => {
                let code = integer(4, true);
                code.map(|code| Scheme::new(code, self.common(columns), scale)).into_iter().collect()
            }
            Container::Compressed => {
                let affine = scheme.has_zeros() || scheme.minimum.is_some();
                let scale = Scale::Float(scheme.scale.float().unwrap_or(FloatKind::F16));
                let code = integer(bits.clamp(2, 8), affine);
                code.map(|code| Scheme::new(code, group, scale)).into_iter().collect()
            }
            Container::Lsq | Container::Quench | Container::Safetensors => Vec::new(),
        }
    }

    /// Whether integers are to have zero points: as the layers that stay have them, else if any layer needs them.
    fn has_zeros(&self) -> bool {
        let zeros = |scheme: &Scheme| scheme.has_zeros() || scheme.minimum.is_some();
        match self.fitting.first() {
            Some(scheme) => zeros(scheme),
            None => self.unfit.iter().any(zeros),
        }
    }

    /// One size of groups for all layers: that of the layers that stay, else the smallest of all, cut so that it divides the columns.
    fn common(&self, columns: usize) -> Group {
        let size = |scheme: &Scheme| match scheme.group {
            Group::Columns(size) => Some(size.get()),
            Group::Tensor | Group::Row => None,
        };
        let schemes = if self.fitting.is_empty() { &self.unfit } else { &self.fitting };
        let smallest = schemes.iter().filter_map(size).min().map(|size| divisor(size, columns));
        smallest.and_then(NonZeroU32::new).map_or(Group::Row, Group::Columns)
    }

    /// The block types of the least width of at least so many bits that a row of so many columns fills.
    fn blocks(bits: u32, columns: usize) -> Vec<Scheme> {
        let of = |kind: BlockType| kind.spelling().parse::<Scheme>().ok();
        let filled = |kind: &BlockType| kind.row_bytes(columns).is_some();
        let schemes: Vec<Scheme> = BlockType::ALL.into_iter().filter(filled).filter_map(of).collect();
        let width = schemes.iter().map(|scheme| scheme.code.bits()).filter(|width| *width >= bits.min(8)).min();
        schemes.into_iter().filter(|scheme| Some(scheme.code.bits()) == width).collect()
    }
}

/// Integers of so many bits, counted from a zero point or from the middle.
fn integer(bits: u32, affine: bool) -> Option<Code> {
    let bits = Bits::new(u8::try_from(bits).ok()?)?;
    Some(if affine { Code::Affine { bits } } else { Code::Int { bits } })
}

/// The largest common divisor.
fn divisor(mut size: u32, columns: usize) -> u32 {
    let mut rest = u32::try_from(columns % size as usize).unwrap_or(0);
    while rest > 0 {
        (size, rest) = (rest, size % rest);
    }
    size
}
