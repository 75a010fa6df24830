//! A lower bound of what vectors of any width say about classes: what a decoder gets out of them.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{entropy, fano_information};
use crate::{Bootstrap, Probe, Value};

/// A lower bound of `I(Y; T)` in bits, by a linear probe on vectors that it has not seen.
///
/// ```text
/// I(Y; T) ≥ H(Y) − CE,   CE = mean −log2 q(y_i | t_i)
/// ```
///
/// `q` is any decoder; the nearer it is to Bayes' the nearer the bound. `H(Y)` is the plug-in entropy of the labels that are measured,
/// with Miller and Madow's correction. Below 0 the decoder is worse than the shares of the classes, and says nothing. The interval draws
/// rows, for the probe as it is; rows of one text are to be on one side.
///
/// - `vectors`: `[rows, width]`, held out from the fit of `probe`; `labels`: one per row
///
/// Source: Barber and Agakov 2003, "The IM algorithm" (`docs/references.md#barber-agakov`).
///
/// # Panics
///
/// As [`Probe::cross_entropy`].
pub fn decoder_bound(probe: &Probe, vectors: Tensor<2>, labels: &[usize], bootstrap: Bootstrap) -> Value {
    let costs: Vec<f64> =
        probe.cross_entropy(vectors, labels).into_iter().map(|cost| cost / std::f64::consts::LN_2).collect();
    let bound = |drawn: &[usize]| {
        let classes: Vec<usize> = drawn.iter().map(|index| labels[*index]).collect();
        entropy(&classes) - drawn.iter().map(|index| costs[*index]).sum::<f64>() / drawn.len() as f64
    };
    let all: Vec<usize> = (0..labels.len()).collect();
    Value::measured(bound(&all), "decoder bound H(Y) - CE, linear probe", labels.len())
        .with_null(0.0)
        .with_interval(bootstrap.interval(labels.len(), |drawn| Some(bound(drawn))), bootstrap.seed)
}

/// What a task has and what an error rate needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headroom {
    /// What is there, in bits: a lower bound, so that a positive headroom is one, and a negative one may be the decoder's fault.
    pub information: Value,
    /// For each error rate that was asked for.
    pub needs: Vec<Need>,
}

/// What an error rate needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Need {
    /// The error rate.
    pub error: f64,
    /// The bits without which it is impossible, by [`fano_information`].
    pub information: f64,
    /// What there is beyond them.
    pub headroom: f64,
}

/// What `information` about one of `classes` is beyond what the `errors` need, .01, .05, .1 and the error rate that is accepted.
///
/// - `entropy`: `H(Y)` in bits
///
/// # Panics
///
/// As [`fano_information`].
pub fn headroom(information: Value, entropy: f64, classes: usize, accepted: f64) -> Headroom {
    let need = |error| {
        let needed = fano_information(entropy, classes, error);
        Need { error, information: needed, headroom: information.value - needed }
    };
    Headroom { needs: [0.01, 0.05, 0.1, accepted].map(need).into(), information }
}

/// The information that a step has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The step of the quantizer.
    pub step: f64,
    /// `I(Y; Q(T))` in bits, as [`decoder_bound`].
    pub information: Value,
    /// `I(Y; T) − I(Y; Q(T))` in bits, by decoders of one family; the decoder of the quantized vectors may be the luckier one.
    pub loss: f64,
}

/// The curve of the information that a quantizer costs, measured: a probe is fitted anew to the quantized vectors of each step.
///
/// - `train`, `test`: vectors `[rows, width]` and labels below `classes`, of different texts
/// - `quantize`: the vectors and a step → what the quantizer makes of them
///
/// # Panics
///
/// As [`Probe::fit`] and [`Probe::cross_entropy`].
pub fn mutual_information_loss(
    train: (Tensor<2>, &[usize]),
    test: (Tensor<2>, &[usize]),
    classes: usize,
    steps: &[f64],
    bootstrap: Bootstrap,
    quantize: impl Fn(Tensor<2>, f64) -> Tensor<2>,
) -> Vec<Loss> {
    let information = |train_on: Tensor<2>, test_on: Tensor<2>| {
        decoder_bound(&Probe::fit(train_on, train.1, classes), test_on, test.1, bootstrap)
    };
    let whole = information(train.0.clone(), test.0.clone()).value;
    let at = |&step: &f64| {
        let information = information(quantize(train.0.clone(), step), quantize(test.0.clone(), step));
        Loss { step, loss: whole - information.value, information }
    };
    steps.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::host;

    /// A sign behind noise, among coordinates that say nothing.
    fn corners(rows: usize, noise: f32, seed: u64, device: &Device) -> (Tensor<2>, Vec<usize>) {
        let labels: Vec<usize> = (0..rows).map(|row| row % 2).collect();
        let signs = labels.iter().map(|label| *label as f32 * 2.0 - 1.0).collect();
        let x = host::matrix(signs, 1, device) + host::gaussian(rows, 1, seed, device) * noise;
        (Tensor::cat(vec![x, host::gaussian(rows, 5, seed + 1, device)], 1), labels)
    }

    #[test]
    fn noise_says_nothing_and_signs_say_a_bit() {
        let device = Device::flex();
        let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
        for (noise, range) in [(0.1, 0.9..1.0), (1.0, 0.4..0.6), (1e3, -0.05..0.01)] {
            let ((x, y), (x_test, y_test)) = (corners(1000, noise, 1, &device), corners(2000, noise, 7, &device));
            let found = decoder_bound(&Probe::fit(x, &y, 2), x_test, &y_test, bootstrap);
            assert!(range.contains(&found.value), "{noise}: {found:?}");
            let interval = found.interval.expect("rows to draw");
            assert!(interval.low <= found.value && found.value <= interval.high, "{found:?}");
        }
    }

    #[test]
    fn headroom_is_what_is_beyond() {
        let found = headroom(Value::measured(3.0, "known", 1), 10f64.log2(), 10, 0.2);
        assert_eq!(found.needs.iter().map(|need| need.error).collect::<Vec<_>>(), [0.01, 0.05, 0.1, 0.2]);
        assert!(found.needs[0].headroom < 0.0 && found.needs[1].headroom > 0.0, "{found:?}");
        assert!(found.needs.windows(2).all(|pair| pair[0].information > pair[1].information));
    }

    #[test]
    fn a_coarse_step_costs_all() {
        let device = Device::flex();
        let ((x, y), (x_test, y_test)) = (corners(1000, 0.3, 1, &device), corners(1000, 0.3, 7, &device));
        let bootstrap = Bootstrap { resamples: 20, ..Bootstrap::default() };
        let round = |x: Tensor<2>, step: f64| (x / step).round() * step;
        let found = mutual_information_loss((x, &y), (x_test, &y_test), 2, &[0.01, 2.0, 20.0], bootstrap, round);
        assert!(found[0].loss.abs() < 0.02, "{found:?}");
        // An erasure channel keeps half a bit at twice the corner.
        assert!((found[1].information.value - 0.5).abs() < 0.1, "{found:?}");
        assert!(found[2].information.value.abs() < 0.01, "{found:?}");
    }
}
