//! Known answers of quantized recursions.

use super::{Jacobian, Recursion, ball_radius, grid, jacobian::norm, wilson};
use crate::{Check, Expected, Source};

/// A check of this module; none of them needs a device.
const fn check(quantity: &'static str, expected: Expected, measure: fn(&burn::tensor::Device) -> f64) -> Check {
    Check { concept: "dynamics", quantity, expected, measure }
}

const fn near(value: f64, within: f64) -> Expected {
    Expected::Near { value, within }
}

const CHECKS: &[Check] = &[
    check(
        "largest fixed point of x ↦ 0.99 x on whole numbers, 1 / (2 (1 − a)): a tie, to the even 50",
        near(50.0, 0.0),
        |_| largest_fixed(0.99),
    ),
    check("largest fixed point of x ↦ 0.95 x: a tie, to the even 10", near(10.0, 0.0), |_| largest_fixed(0.95)),
    check("largest fixed point of x ↦ 0.9 x: a tie, from the odd 5 to 4", near(4.0, 0.0), |_| largest_fixed(0.9)),
    check("largest distance of a quantized contraction over its bound, 60 maps", Expected::Between(0.06, 1.0), |_| {
        (0..60).map(contraction).fold(0.0, f64::max)
    }),
    check("horizon of logistic twins at 0.1, step 1e-2: ln(τ √12 / δ) / ln 2", near(5.1, 1.0), |_| horizon(1e-2)),
    check("horizon of logistic twins at 0.1, step 1e-4", near(11.8, 1.0), |_| horizon(1e-4)),
    check("horizon of logistic twins at 0.1, step 1e-6", near(18.4, 1.0), |_| horizon(1e-6)),
    check("horizon of logistic twins at 0.1, step 1e-8", near(25.0, 1.0), |_| horizon(1e-8)),
    check("Lyapunov exponent of the logistic map, ln 2", near(std::f64::consts::LN_2, 0.02), |_| {
        let logistic = Recursion { map: logistic, quantizer: <[f64]>::to_vec };
        logistic.lyapunov(&[0.3123], 100, 20_000).value
    }),
    // Random maps have √(π N / 8); a chaotic one is like them in the order of magnitude.
    check("period of quantized chaotic maps with 2^10 states over √(π N / 8)", Expected::Between(0.5, 2.0), |_| {
        periods(1 << 10)
    }),
    check("period of quantized chaotic maps with 2^14 states over √(π N / 8)", Expected::Between(0.5, 2.0), |_| {
        periods(1 << 14)
    }),
    check("Lyapunov exponent of a random network, gain 0.7", near(-0.32, 0.05), |_| exponent(0.7)),
    check("Lyapunov exponent of a random network, gain 1.5", near(0.04, 0.05), |_| exponent(1.5)),
    check("Lyapunov exponent of a random network, gain 2.5", near(0.24, 0.05), |_| exponent(2.5)),
    check("what is left of a random network of gain 0.9 after 400 steps, rms", Expected::AtMost(1e-4), |_| {
        size(0.9, 0.0)
    }),
    check("the same with a step of 0.5: a limit cycle", near(0.23, 0.08), |_| size(0.9, 0.5)),
    check("lower end of Wilson's interval of 81 of 263", near(0.2553, 1e-4), |_| wilson(81, 263, 0.95).low),
];

/// The known answers of this module.
pub(crate) fn checks() -> &'static [Check] {
    CHECKS
}

/// Of `x ↦ a x` on whole numbers.
fn largest_fixed(a: f64) -> f64 {
    let recursion = Recursion { map: |x: &[f64]| vec![a * x[0]], quantizer: grid(1.0) };
    (0..200).map(f64::from).filter(|k| recursion.next(&[*k]) == [*k]).fold(0.0, f64::max)
}

fn logistic(x: &[f64]) -> Vec<f64> {
    vec![4.0 * x[0] * (1.0 - x[0])]
}

/// The mean over 200 starts.
fn horizon(step: f64) -> f64 {
    let recursion = Recursion { map: logistic, quantizer: grid(step) };
    let start = |i: usize| 0.05 + 0.9 * ((i as f64 + 0.5) * 0.618_033_988_749_895).fract();
    (0..200).filter_map(|i| recursion.horizon(&[start(i)], 0.1, 1000)).sum::<usize>() as f64 / 200.0
}

/// Normal numbers, `n` of them.
fn normal(n: usize, seed: u64) -> Vec<f64> {
    Source::Gaussian.samples(n, seed).into_iter().map(f64::from).collect()
}

fn times(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// How far `A Q(x) + b` stays from the fixed point of `A x + b` after 300 steps, over its bound; `A` has a gain of 0.3 to 0.95.
fn contraction(seed: u64) -> f64 {
    let width = 2 + seed as usize % 7;
    let (a, b) = (normal(width * width, seed), normal(width, seed + 1000));
    let gain = 0.3 + 0.65 * (seed as f64 / 59.0);
    let scale = gain / Jacobian::from_products(|v| times(&a, v), width).gain();
    let map = |x: &[f64]| times(&a, x).iter().zip(&b).map(|(ax, b)| scale * ax + b).collect::<Vec<_>>();
    let fixed = (0..2000).fold(vec![0.0; width], |x, _| map(&x));
    let recursion = Recursion { map, quantizer: grid(0.3) };
    let apart = recursion.states(&fixed).skip(300).take(100).map(|state| {
        let difference: Vec<f64> = (recursion.map)(&state).iter().zip(&fixed).map(|(x, fixed)| x - fixed).collect();
        norm(&difference)
    });
    apart.fold(0.0, f64::max) / ball_radius(gain, 0.3, width).unwrap_or(0.0)
}

/// The mean period of 400 starts in as many chaotic maps of `states` states, over that of random maps.
fn periods(states: usize) -> f64 {
    let period = |i: usize| {
        let slope = 3.9 + 0.1 * (i as f64 * 0.618_033_988_749_895).fract();
        let map = |x: &[f64]| vec![slope * x[0] * (1.0 - x[0])];
        let recursion = Recursion { map, quantizer: grid(1.0 / states as f64) };
        let start = 0.1 + 0.8 * (i as f64 * 0.754_877_666_246_693).fract();
        recursion.cycle(&[start], 100_000).map_or(f64::NAN, |cycle| cycle.period as f64)
    };
    let mean = (0..400).map(period).sum::<f64>() / 400.0;
    mean / (std::f64::consts::PI * states as f64 / 8.0).sqrt()
}

/// `x ↦ tanh(gain W x)` for normal weights of variance `1 / width`.
fn network(gain: f64, width: usize, seed: u64) -> impl Fn(&[f64]) -> Vec<f64> {
    let w: Vec<f64> = normal(width * width, seed).into_iter().map(|w| w * gain / (width as f64).sqrt()).collect();
    move |x| times(&w, x).into_iter().map(f64::tanh).collect()
}

/// The largest exponent of networks of 100 units with a step of 0.001, the mean of four.
fn exponent(gain: f64) -> f64 {
    let of = |seed| {
        let recursion = Recursion { map: network(gain, 100, seed), quantizer: grid(1e-3) };
        recursion.lyapunov(&normal(100, seed + 100), 200, 400).value
    };
    (0..4).map(of).sum::<f64>() / 4.0
}

/// The root of the mean square of the results of a network of 500 units after 400 steps; a step of 0 is no quantizer. Smaller networks
/// come to rest by chance.
fn size(gain: f64, step: f64) -> f64 {
    let quantizer = |x: &[f64]| if step > 0.0 { grid(step)(x) } else { x.to_vec() };
    let recursion = Recursion { map: network(gain, 500, 1), quantizer };
    let start = normal(500, 2);
    let last = recursion.states(&start).skip(400).take(20).map(|x| norm(&(recursion.map)(&x)).powi(2));
    (last.sum::<f64>() / (20.0 * 500.0)).sqrt()
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_answers() {
        crate::require(super::checks(), &burn::tensor::Device::flex());
    }
}
