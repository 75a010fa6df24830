//! The distance of one tensor from another, as a ratio.

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::host;

/// `||b - a|| / ||a||` over all elements (Frobenius norms), for a reference `a` and an approximation `b`.
///
/// 0 for equal tensors; infinite where the reference is all zero and the approximation is not.
///
/// # Panics
///
/// If the shapes differ, naming both.
pub fn relative_error<const D: usize>(reference: Tensor<D>, approximation: Tensor<D>) -> f64 {
    Distortion::of(reference, approximation).relative_error()
}

/// Signal-to-noise ratio `10 log10(sum a^2 / sum (b - a)^2)` in decibels, for a reference `a` and an approximation `b`.
///
/// Six decibels are one bit: a uniform quantizer gains 6.02 dB per bit. Infinite for equal tensors.
///
/// # Panics
///
/// If the shapes differ, naming both.
pub fn snr_db<const D: usize>(reference: Tensor<D>, approximation: Tensor<D>) -> f64 {
    Distortion::of(reference, approximation).snr_db()
}

/// The energies of a signal and of the error made on it; pieces of one tensor may be added up.
///
/// The sums along the last dimension are made on the device in f32, those over rows on the host in f64, so that a
/// matrix is not copied off the device and a long sum does not lose its small terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distortion {
    /// `sum a^2` over the reference.
    pub signal: f64,
    /// `sum (b - a)^2`.
    pub noise: f64,
}

impl Distortion {
    /// The distortion of one approximation.
    ///
    /// # Panics
    ///
    /// If the shapes differ, naming both.
    pub fn of<const D: usize>(reference: Tensor<D>, approximation: Tensor<D>) -> Self {
        let mut distortion = Self::default();
        distortion.add(reference, approximation);
        distortion
    }

    /// Adds another piece, `[.., columns]`: a batch of a layer's outputs, or a row of a matrix.
    ///
    /// # Panics
    ///
    /// If the shapes differ, naming both.
    pub fn add<const D: usize>(&mut self, reference: Tensor<D>, approximation: Tensor<D>) {
        let (a, b) = (reference.dims(), approximation.dims());
        assert_eq!(a, b, "a distortion needs tensors of one shape: reference {a:?}, approximation {b:?}");
        let reference = reference.cast(DType::F32);
        let difference = approximation.cast(DType::F32) - reference.clone();
        self.signal += energy(reference);
        self.noise += energy(difference);
    }

    /// `sqrt(noise / signal)`; 0 without noise, infinite for noise on no signal.
    pub fn relative_error(&self) -> f64 {
        if self.noise == 0.0 { 0.0 } else { (self.noise / self.signal).sqrt() }
    }

    /// `10 log10(signal / noise)` in decibels; infinite without noise.
    pub fn snr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

/// `sum x^2`.
fn energy<const D: usize>(x: Tensor<D>) -> f64 {
    let rows = (x.clone() * x).sum_dim(D - 1); // [.., 1]
    host::floats(rows).into_iter().map(f64::from).sum()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    #[test]
    fn known_answers() {
        let a = Tensor::<2>::from_floats([[3.0, 0.0], [0.0, 4.0]], &Device::flex());
        let b = Tensor::<2>::from_floats([[3.0, 0.3], [0.4, 4.0]], &Device::flex());
        assert!((relative_error(a.clone(), b.clone()) - 0.1).abs() < 1e-7);
        assert!((snr_db(a.clone(), b) - 20.0).abs() < 1e-5);
        assert_eq!(relative_error(a.clone(), a.clone()), 0.0);
        assert_eq!(snr_db(a.clone(), a), f64::INFINITY);
    }

    #[test]
    fn no_signal() {
        let (zero, one) = (tensor(&[0.0, 0.0]), tensor(&[1.0, 0.0]));
        assert_eq!(relative_error(zero.clone(), zero.clone()), 0.0);
        assert_eq!(relative_error(zero.clone(), one.clone()), f64::INFINITY);
        assert_eq!(snr_db(zero, one), f64::NEG_INFINITY);
    }

    /// Rounding a uniform signal over `n` steps leaves `delta^2 / 12`: 20 log10(n) decibels against its own variance
    /// `(n delta)^2 / 12`, and 4 times that power for a signal that starts at 0.
    #[test]
    fn uniform_rounding() {
        let n = 64.0f32;
        let count = 1 << 16;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 + 0.5) / count as f32).collect();
        let rounded: Vec<f32> = values.iter().map(|x| ((x * n).floor() + 0.5) / n).collect();
        let expected = 20.0 * f64::from(n).log10() + 10.0 * 4f64.log10();
        assert!((snr_db(tensor(&values), tensor(&rounded)) - expected).abs() < 1e-3);
    }

    #[test]
    #[should_panic(expected = "reference [2], approximation [3]")]
    fn shapes_must_agree() {
        relative_error(tensor(&[1.0, 2.0]), tensor(&[1.0, 2.0, 3.0]));
    }

    proptest! {
        /// Pieces add up to the whole, the ratio does not change under scaling, and both agree with sums in f64.
        #[test]
        fn pieces_and_scaling(values in prop::collection::vec((-4f32..4.0, -4f32..4.0), 2..40), cut in 1usize..40) {
            let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            let cut = cut.min(a.len() - 1);
            let whole = Distortion::of(tensor(&a), tensor(&b));
            let mut pieces = Distortion::of(tensor(&a[..cut]), tensor(&b[..cut]));
            pieces.add(tensor(&a[cut..]), tensor(&b[cut..]));
            let naive = Distortion {
                signal: a.iter().map(|a| f64::from(*a).powi(2)).sum(),
                noise: a.iter().zip(&b).map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2)).sum(),
            };
            let close = |x: f64, y: f64| (x - y).abs() <= 1e-5 * y.abs().max(1e-12);
            prop_assert!(close(whole.signal, naive.signal) && close(whole.noise, naive.noise), "{whole:?} {naive:?}");
            prop_assert!(close(pieces.signal, whole.signal) && close(pieces.noise, whole.noise));
            let scaled = relative_error(tensor(&a) * 8.0, tensor(&b) * 8.0);
            prop_assert!(close(scaled, whole.relative_error()));
        }
    }
}
