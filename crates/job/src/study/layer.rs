//! [`ModelLayers`]: the matrices of a real model, one at a time, and what a scheme makes of each.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use quench_metrics::{relative_error, snr_db};
use quench_models::{Decoder, Encoder, Kind, ResNet};
use quench_nn::LayerInfo;
use quench_quantize::{Matrix, Method, QuantizeError, ScaleSearch, Target};
use serde::{Deserialize, Serialize};

use crate::JobError;
use crate::subject::Subject;

/// Bars of a histogram.
const BARS: usize = 64;

/// A model whose layers are looked at one by one; only the last one is in memory.
#[derive(Debug)]
pub struct ModelLayers {
    folder: PathBuf,
    device: Device,
    kind: Kind,
    layers: Vec<LayerInfo>,
    last: Option<(String, Matrix)>,
}

/// What a scheme makes of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerView {
    /// Its name.
    pub layer: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Code, group and scale, as `int4/128/f16`.
    pub scheme: String,
    /// How scales are found: `"absmax"` or `"mse"`.
    pub search: ScaleSearch,
    /// With its scales.
    pub bits_per_weight: f64,
    /// `‖Ŵ − W‖ / ‖W‖`.
    pub relative_error: f64,
    /// `−20 log10` of it, dB; `None` without an error.
    pub snr_db: Option<f64>,
    /// How many different codes occur.
    pub codes: usize,
    /// Where the bars begin and end; all of the same width.
    pub range: [f32; 2],
    /// Weights in each bar.
    pub before: Vec<u64>,
    /// The same after rounding.
    pub after: Vec<u64>,
}

impl ModelLayers {
    /// Opens a model; reads no weight.
    ///
    /// # Errors
    /// If there is no model, or it cannot be read.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, JobError> {
        fn of<M: Subject>(folder: &Path, device: &Device) -> Result<Vec<LayerInfo>, JobError> {
            Ok(M::from_folder(folder, device)?.layers())
        }
        let kind = Kind::of(folder)?;
        let layers = match kind {
            Kind::Decoder => of::<Decoder>(folder, device)?,
            Kind::Encoder => of::<Encoder>(folder, device)?,
            Kind::ResNet => of::<ResNet>(folder, device)?,
        };
        Ok(Self { folder: folder.to_owned(), device: device.clone(), kind, layers, last: None })
    }

    /// The names and shapes `[out, in]` of all layers, in the order of the model.
    pub fn names(&self) -> impl Iterator<Item = (&str, [usize; 2])> {
        self.layers.iter().map(|layer| (layer.name.as_str(), layer.shape))
    }

    /// Rounds one layer by a scheme.
    ///
    /// # Errors
    /// [`JobError::NoLayers`] for an unknown layer; whatever is wrong with the scheme, or with it for this layer.
    pub fn view(&mut self, layer: &str, scheme: &str, search: ScaleSearch) -> Result<LayerView, JobError> {
        let target: Target = scheme.parse()?;
        if self.last.as_ref().is_none_or(|(name, _)| name != layer) {
            let matrix = match self.kind {
                Kind::Decoder => self.read::<Decoder>(layer)?,
                Kind::Encoder => self.read::<Encoder>(layer)?,
                Kind::ResNet => self.read::<ResNet>(layer)?,
            };
            self.last = Some((layer.to_owned(), matrix));
        }
        let Some((_, w)) = &self.last else { unreachable!("it was read") };
        let packed = Method::rtn(search).quantize(layer, w, target, None)?.packed;
        let after = packed.decode();
        let shape = [w.rows, w.columns];
        let tensor = |values: &[f32]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &self.device);
        let (x, y) = (tensor(&w.values), tensor(&after));
        let codes = packed.codes().into_iter().collect::<std::collections::BTreeSet<_>>().len();
        let snr = snr_db(x.clone(), y.clone());
        let ends =
            w.values.iter().chain(&after).fold([f32::MAX, f32::MIN], |[low, high], x| [low.min(*x), high.max(*x)]);
        Ok(LayerView {
            layer: layer.to_owned(),
            shape,
            scheme: packed.scheme().to_string(),
            search,
            bits_per_weight: packed.bits_per_weight(),
            relative_error: relative_error(x, y),
            snr_db: snr.is_finite().then_some(snr),
            codes,
            range: ends,
            before: histogram(&w.values, ends),
            after: histogram(&after, ends),
        })
    }

    fn read<M: Subject>(&self, layer: &str) -> Result<Matrix, JobError> {
        let unknown = || JobError::NoLayers { path: self.folder.clone(), pattern: layer.to_owned() };
        let section = self.layers.iter().find(|info| info.name == layer).ok_or_else(unknown)?.section();
        let mut model = M::from_folder(&self.folder, &self.device)?;
        model.load(section).map_err(QuantizeError::from)?;
        let part = model.open(section).into_iter().find(|part| part.name == layer).ok_or_else(unknown)?;
        Ok(Matrix::of(part.weight))
    }
}

/// How many values are in each of [`BARS`] equal parts of a range.
fn histogram(values: &[f32], [low, high]: [f32; 2]) -> Vec<u64> {
    let mut bars = vec![0; BARS];
    let width = (high - low).max(f32::MIN_POSITIVE);
    for value in values {
        bars[(((value - low) / width * BARS as f32) as usize).min(BARS - 1)] += 1;
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bar() {
        let bars = histogram(&[-1.0, -0.99, 0.0, 1.0], [-1.0, 1.0]);
        assert_eq!((bars[0], bars[32], bars[63], bars.iter().sum::<u64>()), (2, 1, 1, 4));
        assert_eq!(histogram(&[2.0; 5], [2.0, 2.0])[0], 5);
    }
}
