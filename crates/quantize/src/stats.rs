//! What calibration gathers: the Gram matrix of the inputs at each site.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use quench_nn::Tap;

use crate::quantizer::Matrix;

/// `G = Σ x xᵀ` over the inputs `x` that reached one site, `[in, in]`, on the device.
#[derive(Clone, Debug)]
pub struct Gram {
    sum: Tensor<2>,
    count: usize,
}

impl Gram {
    /// A Gram matrix that was summed elsewhere over `count` inputs.
    ///
    /// # Panics
    /// If it is not square.
    pub fn new(sum: Tensor<2>, count: usize) -> Self {
        let [rows, columns] = sum.dims();
        assert_eq!(rows, columns, "a Gram matrix is square, found [{rows}, {columns}]");
        Self { sum, count }
    }

    /// That of `x`, `[count, in]`.
    pub(crate) fn of(x: Tensor<2>) -> Self {
        let [count, _] = x.dims();
        Self { sum: square(x), count }
    }

    /// The sum of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, count: self.count + other.count }
    }

    /// The sum, `[in, in]`.
    pub fn sum(&self) -> Tensor<2> {
        self.sum.clone()
    }

    /// How many inputs were summed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Input features.
    pub fn size(&self) -> usize {
        self.sum.dims()[0]
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.sum.device()
    }

    /// Its values on the host, row-major.
    pub fn to_host(&self) -> Vec<f32> {
        host(self.sum.clone())
    }

    /// Its diagonal: the energy of each input feature.
    pub fn diagonal(&self) -> Vec<f32> {
        let n = self.size();
        self.to_host().into_iter().step_by(n + 1).collect()
    }

    /// What a squared error in each column counts, `[in]`, 1 in the mean:
    ///
    /// ```text
    /// h_j = (G_jj + λ) / (mean(diag G) + λ)        λ = 0.01 · mean(diag G)
    /// ```
    ///
    /// `G_jj` is, but for a factor, the mean square of input `j`, so that `Σ h_j e_j²` is the squared error of the output
    /// if inputs are not correlated. `λ`, GPTQ's damping, keeps inputs that calibration never saw from being given up.
    pub fn importance(&self) -> Vec<f32> {
        const DAMPING: f64 = 0.01;
        let diagonal = self.diagonal();
        let mean = mean(&diagonal);
        if mean <= 0.0 {
            return vec![1.0; diagonal.len()];
        }
        let of = |g: f32| (f64::from(g.max(0.0)) / mean + DAMPING) / (1.0 + DAMPING);
        diagonal.into_iter().map(|g| of(g) as f32).collect()
    }

    /// Whether every entry is finite.
    pub fn is_finite(&self) -> bool {
        self.to_host().iter().all(|value| value.is_finite())
    }

    /// `e_r G e_rᵀ` for every row of `e` `[rows, in]`: the squared error of each output over all inputs.
    pub fn energy(&self, e: &Matrix) -> Vec<f64> {
        // Rows at a time, so that the product stays small beside the matrix.
        const ROWS: usize = 1024;
        let mut energies = Vec::with_capacity(e.rows);
        for values in e.values.chunks(ROWS * e.columns) {
            let shape = [values.len() / e.columns, e.columns];
            let errors = Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &self.device());
            let products = host(errors.matmul(self.sum.clone()));
            let pairs = values.chunks(e.columns).zip(products.chunks(e.columns));
            energies
                .extend(pairs.map(|(e, p)| e.iter().zip(p).map(|(e, p)| f64::from(*e) * f64::from(*p)).sum::<f64>()));
        }
        energies
    }

    /// `tr(E G Eᵀ) / tr(W G Wᵀ)`: the part of the output's energy that is error.
    pub fn share(&self, errors: &Matrix, w: &Matrix) -> f64 {
        self.energy(errors).iter().sum::<f64>() / self.energy(w).iter().sum::<f64>().max(f64::MIN_POSITIVE)
    }
}

/// A tap that sums Gram matrices at the sites it was asked about, and lets every activation through unchanged.
#[derive(Debug, Default)]
pub struct Stats {
    sites: BTreeMap<String, Site>,
}

/// What the network gives beside what it gave before it was quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Drift<'a> {
    /// `Σ (x̄ − x) xᵀ`, `[in, in]`, over the inputs of a layer.
    Input(&'a Tensor<2>),
    /// `Σ (ȳ − y) xᵀ`, `[out, in]`, over the inputs of a layer and the sum that its outputs are part of.
    Output(&'a Tensor<2>),
}

/// What is known about the inputs at one site.
#[derive(Debug, Default)]
struct Site {
    gram: Option<Gram>,
    drift: Option<Tensor<2>>,
    /// The inputs of the dense network for the pass that comes next, `[count, in]`.
    reference: Option<Tensor<2>>,
    /// The sum that what is computed here becomes part of.
    residual: Option<Residual>,
}

/// A sum in the residual stream, and what a layer that adds to it reads.
#[derive(Debug)]
struct Residual {
    site: String,
    /// That of the dense network for the pass that comes next.
    reference: Option<Tensor<2>>,
    /// The input of the layer in this pass.
    input: Option<Tensor<2>>,
}

impl Stats {
    /// Watches the given sites.
    pub fn at(sites: impl IntoIterator<Item = String>) -> Self {
        Self { sites: sites.into_iter().map(|site| (site, Site::default())).collect() }
    }

    /// The Gram matrix of a site, if inputs reached it.
    pub fn gram(&self, site: &str) -> Option<&Gram> {
        self.sites.get(site)?.gram.as_ref()
    }

    /// `D = Σ (x̄ − x) xᵀ`, `[in, in]`, over the inputs `x` of a site and those of the dense network, `x̄`; where the passes
    /// had a [reference](Self::compare).
    pub(crate) fn drift(&self, site: &str) -> Option<Drift<'_>> {
        let site = self.sites.get(site)?;
        let drift = site.drift.as_ref()?;
        Some(if site.residual.is_some() { Drift::Output(drift) } else { Drift::Input(drift) })
    }

    /// At `site` the drift is `Σ (ȳ − y) xᵀ`, `[out, in]`, with `y` the sum at `residual`.
    pub(crate) fn through(&mut self, site: &str, residual: &str) {
        if let Some(own) = self.sites.get_mut(site) {
            own.residual = Some(Residual { site: residual.to_owned(), reference: None, input: None });
        }
    }

    /// The next pass is compared with what `reference` has seen.
    pub(crate) fn compare(&mut self, reference: &mut Reference) {
        for (site, own) in &mut self.sites {
            match &mut own.residual {
                Some(residual) => residual.reference = reference.take(&residual.site),
                None => own.reference = reference.take(site),
            }
        }
    }
}

impl Tap for Stats {
    fn sees(&self, site: &str) -> bool {
        self.sites.contains_key(site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        for own in self.sites.values_mut() {
            let Some(residual) = own.residual.as_mut().filter(|residual| residual.site == site) else { continue };
            if let (Some(reference), Some(input)) = (residual.reference.take(), residual.input.take()) {
                add(&mut own.drift, (reference - rows(x.clone())).transpose().matmul(input));
            }
        }
        if let Some(site) = self.sites.get_mut(site) {
            let rows = rows(x.clone());
            if let Some(reference) = site.reference.take() {
                add(&mut site.drift, (reference - rows.clone()).transpose().matmul(rows.clone()));
            }
            if let Some(residual) = &mut site.residual {
                residual.input = Some(rows.clone());
            }
            let gram = Gram::of(rows);
            site.gram = Some(match site.gram.take() {
                None => gram,
                Some(before) => before.plus(gram),
            });
        }
        x
    }
}

/// A tap that keeps the inputs of one pass at the sites it was asked about, and the order in which they came by.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    inputs: BTreeMap<String, Option<Tensor<2>>>,
    order: Vec<String>,
}

impl Reference {
    /// Watches the given sites.
    pub(crate) fn at(sites: impl IntoIterator<Item = String>) -> Self {
        Self { inputs: sites.into_iter().map(|site| (site, None)).collect(), order: Vec::new() }
    }

    /// What came by at `site`.
    fn take(&mut self, site: &str) -> Option<Tensor<2>> {
        self.inputs.get_mut(site)?.take()
    }

    /// Bytes of what came by at `site`.
    pub(crate) fn bytes(&self, site: &str) -> usize {
        let input = self.inputs.get(site).and_then(Option::as_ref);
        input.map_or(0, |x| x.dims().iter().product::<usize>() * size_of::<f32>())
    }

    /// The sites in the order in which the pass came by them.
    pub(crate) fn order(&self) -> &[String] {
        &self.order
    }
}

impl Tap for Reference {
    fn sees(&self, site: &str) -> bool {
        self.inputs.contains_key(site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        if let Some(input) = self.inputs.get_mut(site)
            && input.replace(rows(x.clone())).is_none()
        {
            self.order.push(site.to_owned());
        }
        x
    }
}

/// `xᵀ x` of `x` `[count, n]`, symmetric to the last bit; of a large one only the blocks on and above the diagonal are computed.
fn square(x: Tensor<2>) -> Tensor<2> {
    const BLOCK: usize = 256;
    const BLOCKS: usize = 4;
    let [_, n] = x.dims();
    let width = n.div_ceil((n / BLOCK).clamp(1, BLOCKS));
    let parts: Vec<Tensor<2>> = x.split(width, 1);
    let mut rows: Vec<Vec<Tensor<2>>> = Vec::new();
    for (i, left) in parts.iter().enumerate() {
        let left = left.clone().transpose();
        let below = rows.iter().map(|row| row[i].clone().transpose());
        let above = parts[i..].iter().map(|right| left.clone().matmul(right.clone()));
        let row = below.chain(above).collect();
        rows.push(row);
    }
    Tensor::cat(rows.into_iter().map(|row| Tensor::cat(row, 1)).collect(), 0)
}

/// Adds to a sum that may not have begun.
fn add(sum: &mut Option<Tensor<2>>, x: Tensor<2>) {
    *sum = Some(match sum.take() {
        None => x,
        Some(sum) => sum + x,
    });
}

/// `[.., features]` as `[count, features]`.
pub(crate) fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let dims = x.dims();
    x.reshape([dims[..D - 1].iter().product(), dims[D - 1]])
}

/// The mean of the diagonal of a square matrix, `[n, n]`, to which damping is relative.
pub(crate) fn mean_diagonal(g: &[f32]) -> f64 {
    let diagonal: Vec<f32> = g.iter().step_by(g.len().isqrt() + 1).copied().collect();
    mean(&diagonal)
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

/// The values of a float tensor on the host.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_else(|error| unreachable!("a float tensor converts to f32: {error:?}"))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn a_square_by_blocks_is_the_product() {
        for n in [1, 255, 256, 511, 512, 700, 1030] {
            let x = Tensor::<2>::random([9, n], Distribution::Default, &Device::flex());
            let whole = host(x.clone().transpose().matmul(x.clone()));
            let blocks = host(square(x));
            assert_eq!(blocks.len(), n * n);
            assert!(whole.iter().zip(&blocks).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "n = {n}");
            assert!((0..n).all(|i| (0..i).all(|j| blocks[i * n + j] == blocks[j * n + i])));
        }
    }
}
