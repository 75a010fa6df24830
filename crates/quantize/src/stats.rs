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
        let mean = diagonal.iter().map(|g| f64::from(*g)).sum::<f64>() / diagonal.len() as f64;
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
    grams: BTreeMap<String, Option<Gram>>,
}

impl Stats {
    /// Watches the given sites.
    pub fn at(sites: impl IntoIterator<Item = String>) -> Self {
        Self { grams: sites.into_iter().map(|site| (site, None)).collect() }
    }

    /// The Gram matrix of a site, if inputs reached it.
    pub fn gram(&self, site: &str) -> Option<&Gram> {
        self.grams.get(site)?.as_ref()
    }
}

impl Tap for Stats {
    fn sees(&self, site: &str) -> bool {
        self.grams.contains_key(site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        if let Some(slot) = self.grams.get_mut(site) {
            let dims = x.dims();
            let features = dims[D - 1];
            let count: usize = dims[..D - 1].iter().product();
            let rows = x.clone().reshape([count, features]);
            let sum = rows.clone().transpose().matmul(rows);
            *slot = Some(match slot.take() {
                None => Gram { sum, count },
                Some(gram) => Gram { sum: gram.sum + sum, count: gram.count + count },
            });
        }
        x
    }
}

/// The values of a float tensor on the host.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_else(|error| unreachable!("a float tensor converts to f32: {error:?}"))
}
