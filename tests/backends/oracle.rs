//! What the suite compares with: a naive product in f64, its error bound, and exact equality.

use quench::kernels::Side;

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
