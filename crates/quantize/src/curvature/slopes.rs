//! How the probability of labels changes along errors in the weights.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use crate::quantizer::Matrix;
use crate::stats::host;

/// Errors in the weights whose cost is asked for while gradients are at hand.
///
/// They stay on the device: 4 bytes for each weight and error.
#[derive(Debug, Default)]
pub struct Errors {
    /// Keys, and `[errors, out · in]`.
    layers: BTreeMap<String, (Vec<usize>, Tensor<2>)>,
}

impl Errors {
    /// Adds the error `E = Ŵ − W` of a layer; `key` tells it from others of the same layer.
    ///
    /// # Panics
    ///
    /// If the layer has errors of another size.
    pub fn add(&mut self, layer: &str, key: usize, error: &Matrix, device: &Device) {
        let row = Tensor::from_data(TensorData::new(error.values.clone(), [1, error.values.len()]), device);
        let (mut keys, rows) = match self.layers.remove(layer) {
            None => (Vec::new(), row),
            Some((keys, rows)) => (keys, Tensor::cat(vec![rows, row], 0)),
        };
        keys.push(key);
        self.layers.insert(layer.to_owned(), (keys, rows));
    }
}

/// `⟨∇_W log p(y), E⟩` of every error, for labels `y` that are drawn from the model; a number for each sequence, or of tables for each
/// batch.
///
/// Their squares add up to the damage of the error to second order, with what K-FAC takes for independent: what a layer reads and its
/// gradient, and the positions of a sequence.
///
/// ```text
/// KL(p ‖ p̂) ≈ ½ Σ_l Σ_s ⟨∇_l, E_l⟩_s² / T            layers with independent errors
/// KL(p ‖ p̂) ≈ ½ Σ_s (Σ_l ⟨∇_l, E_l⟩_s)² / T          any
/// ```
///
/// Each is a sample of a square of zero mean, so `n` of them know one sum of squares to within about `√(2 / n)`. The first sum has a
/// square for each layer and is known much better.
#[derive(Debug, Default)]
pub struct Slopes {
    /// For each layer the keys of its errors, and a slope per key for each sequence or batch.
    layers: BTreeMap<String, (Vec<usize>, Vec<Vec<f32>>)>,
    /// Sequences in each batch.
    batches: Vec<usize>,
}

impl Slopes {
    /// - `gradient`: `[out, in]`, of one sequence, or of a batch
    pub(super) fn add(&mut self, layer: &str, gradient: &Tensor<2>, errors: &Errors) {
        let Some((keys, rows)) = errors.layers.get(layer) else { return };
        let [_, weights] = rows.dims();
        let slopes = host(rows.clone().matmul(gradient.clone().reshape([weights, 1])));
        let (_, found) = self.layers.entry(layer.to_owned()).or_insert_with(|| (keys.clone(), Vec::new()));
        found.push(slopes);
    }

    /// After the slopes of a batch of so many sequences.
    pub(super) fn end_batch(&mut self, sequences: usize) {
        self.batches.push(sequences);
    }

    /// The slopes along one error; `None` if no gradient reached the layer, or it has no such error.
    pub fn along(&self, layer: &str, key: usize) -> Option<Vec<f64>> {
        let (keys, slopes) = self.layers.get(layer)?;
        let at = keys.iter().position(|other| *other == key)?;
        Some(slopes.iter().map(|slopes| f64::from(slopes[at])).collect())
    }

    /// The slopes along several errors at once, those that are not known left out.
    pub fn together<'a>(&self, errors: impl IntoIterator<Item = (&'a str, usize)>) -> Vec<f64> {
        let all: Vec<Vec<f64>> = errors.into_iter().filter_map(|(layer, key)| self.along(layer, key)).collect();
        let sequences = self.batches.iter().sum();
        let by_sequence = all.iter().all(|slopes| slopes.len() == sequences);
        let mut sums = vec![0.0; if by_sequence { sequences } else { self.batches.len() }];
        for slopes in all {
            let slopes = if by_sequence || slopes.len() < sequences { slopes } else { self.by_batch(&slopes) };
            sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        sums
    }

    fn by_batch(&self, slopes: &[f64]) -> Vec<f64> {
        let mut rest = slopes;
        let mut sum = |&sequences: &usize| {
            let (batch, after) = rest.split_at(sequences);
            rest = after;
            batch.iter().sum()
        };
        self.batches.iter().map(&mut sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Device::flex())
    }

    /// Two batches of two sequences; a layer with two errors, and a table with one.
    fn slopes() -> Slopes {
        let mut errors = Errors::default();
        let of = |values: &[f32]| Matrix { rows: 1, columns: values.len(), values: values.to_vec() };
        errors.add("layer", 3, &of(&[1.0, 0.0]), &Device::flex());
        errors.add("layer", 5, &of(&[1.0, 2.0]), &Device::flex());
        errors.add("table", 3, &of(&[1.0]), &Device::flex());
        let mut found = Slopes::default();
        for batch in [[[1.0, 0.0], [2.0, 1.0]], [[3.0, -1.0], [4.0, 0.5]]] {
            batch.iter().for_each(|gradient| found.add("layer", &row(gradient), &errors));
            found.add("table", &row(&[10.0]), &errors);
            found.add("unknown", &row(&[1.0]), &errors);
            found.end_batch(2);
        }
        found
    }

    #[test]
    fn slopes_are_products_with_the_gradients() {
        let slopes = slopes();
        assert_eq!(slopes.along("layer", 3).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(slopes.along("layer", 5).unwrap(), [1.0, 4.0, 1.0, 5.0]);
        assert_eq!(slopes.along("table", 3).unwrap(), [10.0, 10.0]);
        assert!(slopes.along("layer", 4).is_none() && slopes.along("unknown", 3).is_none());
    }

    #[test]
    fn layers_add_up_by_sequence_and_tables_by_batch() {
        let slopes = slopes();
        assert_eq!(slopes.together([("layer", 3)]), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(slopes.together([("layer", 3), ("table", 3), ("unknown", 1)]), [13.0, 17.0]);
        assert_eq!(slopes.together([("unknown", 1)]), [0.0; 4]);
    }
}
