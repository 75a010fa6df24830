//! What the suite compares with: a naive product in f64, its error bound, and exact equality.

use quench::format::Code;
use quench::kernels::{Activations, Side};

use crate::cases::Sample;

/// A product in f64 and how far a float product of the same operands may be from it.
pub struct Product {
    pub values: Vec<f64>,
    /// `k · |x| · |w|`, to be multiplied by the unit roundoff: the usual bound for any order of a sum of `k` products.
    pub bound: Vec<f64>,
}

/// `x · Wᵀ` or `x · W`, one element at a time.
pub fn product(x: &[f32], w: &[f32], shape: [usize; 2], side: Side) -> Product {
    let [k, n] = side.columns(shape);
    let weight = |j: usize, k: usize| match side {
        Side::Transposed => w[j * shape[1] + k],
        Side::Plain => w[k * shape[1] + j],
    };
    let (mut values, mut bound) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(k) {
        for j in 0..n {
            let terms = || row.iter().enumerate().map(|(k, &x)| f64::from(x) * f64::from(weight(j, k)));
            values.push(terms().sum());
            bound.push((k + 2) as f64 * terms().map(f64::abs).sum::<f64>());
        }
    }
    Product { values, bound }
}

/// `x · Wᵀ`, and how far it may be where the input is rounded first: the bounds in the docs of [`Activations`].
pub fn rounded_product(sample: &Sample, shape: [usize; 2], activations: Activations) -> Product {
    let mut product = product(&sample.x, &sample.w, shape, Side::Transposed);
    let ([out, columns], scheme) = (shape, sample.packed.scheme());
    let (group, scales) = (scheme.group.size(columns), sample.packed.scale_values());
    let order = sample.packed.parts().order.as_ref();
    let minimums = sample.packed.minimums();
    let stored = |j: usize| order.map_or(j, |order| order[j] as usize);
    let top = match scheme.code {
        Code::Int { .. } | Code::Affine { .. } => 0.0,
        code => f64::from(code.max_level()),
    };
    for (n, bound) in product.bound.iter_mut().enumerate() {
        let (x, w) = (&sample.x[n / out * columns..][..columns], &sample.w[n % out * columns..][..columns]);
        let x = |j: usize| f64::from(x[stored(j)]).abs();
        let w = |j: usize| f64::from(w[stored(j)]).abs();
        let scale = |j: usize| f64::from(scales[n % out * columns.div_ceil(group) + j / group]).abs();
        let minimum = |j: usize| {
            let at = n % out * columns.div_ceil(group) + j / group;
            minimums.as_ref().map_or(0.0, |minimums| f64::from(minimums[at]).abs())
        };
        let columns: Vec<usize> = (0..columns).collect();
        // Minimums and products are summed apart, and either may be larger than the weight.
        let apart = |j: usize| if minimums.is_some() { scale(j) * scheme.code.len() as f64 + minimum(j) } else { 0.0 };
        *bound += (columns.len() + 8) as f64 * columns.iter().map(|&j| x(j) * apart(j)).sum::<f64>();
        let error: f64 = match activations {
            Activations::F32 => 0.0,
            // Of input and levels eight bits are left; a code and its zero point cancel only after that, in f32.
            Activations::Bf16 => {
                let rounding = columns.iter().map(|&j| x(j) * (2.1 * w(j) + scale(j) * top)).sum::<f64>() / 256.0;
                let codes = columns.iter().map(|&j| x(j) * scale(j) * scheme.code.len() as f64).sum::<f64>();
                rounding + (columns.len() + 2) as f64 * codes * F32_ROUNDOFF
            }
            // Half a step of the input, a block at a time, and half a step of a table's levels.
            Activations::Int8 => {
                let block = |block: &[usize]| {
                    let half = block.iter().fold(0.0, |top: f64, &j| top.max(x(j))) / 127.0 * 0.5001;
                    block.iter().map(|&j| half * w(j) + (x(j) + half) * scale(j) * top / 127.0 * 0.51).sum::<f64>()
                };
                columns.chunks(group.min(128)).map(block).sum()
            }
        };
        *bound += (error + error * (columns.len() + 8) as f64 * F32_ROUNDOFF) / F32_ROUNDOFF;
    }
    product
}

pub const F32_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// `found` within `roundoff · bound` of the product, everywhere.
pub fn close(what: &str, found: &[f32], expected: &Product, roundoff: f64) -> Result<(), String> {
    if found.len() != expected.values.len() {
        return Err(format!("{what}: {} values instead of {}", found.len(), expected.values.len()));
    }
    let each = found.iter().zip(&expected.values).zip(&expected.bound).enumerate();
    for (index, ((&found, &expected), &bound)) in each {
        let allowed = roundoff * bound + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(found) - expected).abs();
        if error.is_nan() || error > allowed {
            return Err(format!("{what}: {found:e} at {index} instead of {expected:e} ± {allowed:e}"));
        }
    }
    Ok(())
}

/// `found` equal to `expected`, everywhere; 0 and -0 are equal.
pub fn equal(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} values instead of {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        Some(index) => Err(format!("{what}: {:e} at {index} instead of {:e}", found[index], expected[index])),
        None => Ok(()),
    }
}
