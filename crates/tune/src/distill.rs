//! [`Teacher`]: what a dense model says, kept on disk, and how far a student is from it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use quench_nn::Model;
use serde::{Deserialize, Serialize};

use crate::state::{Tensors, read_file, write_file};
use crate::{TuneError, host};

/// The distributions of a dense model over one batch: the likeliest classes of each row, and the mass of all others together.
#[derive(Clone, Debug)]
pub struct Targets {
    /// `[rows, k]`.
    ids: Tensor<2, Int>,
    /// `p` of those, `[rows, k]`.
    p: Tensor<2>,
    /// `1 − Σ p`, `[rows, 1]`.
    tail: Tensor<2>,
    /// `Σ p ln p + tail ln tail` over all rows.
    negative_entropy: f64,
}

impl Targets {
    /// The `k` likeliest classes of `logits` `[.., classes]`; with all of them, nothing is lost.
    pub fn new<const D: usize>(logits: Tensor<D>, k: usize) -> Self {
        let rows = flat(logits.detach());
        let [_, classes] = rows.dims();
        let log_p = log_softmax(rows, 1);
        let (log_p, ids) = log_p.topk_with_indices(k.clamp(1, classes), 1);
        Self::from_parts(ids, log_p, k >= classes)
    }

    /// - `whole`: whether no class is left out
    fn from_parts(ids: Tensor<2, Int>, log_p: Tensor<2>, whole: bool) -> Self {
        let p = log_p.exp();
        let rest = p.clone().sum_dim(1).neg().add_scalar(1.0).clamp_min(0.0);
        let tail = if whole { rest.zeros_like() } else { rest };
        let term = |p: &f32| if *p > 0.0 { f64::from(*p) * f64::from(*p).ln() } else { 0.0 };
        let sum = |x: Tensor<2>| host(x).iter().map(term).sum::<f64>();
        let negative_entropy = sum(p.clone()) + sum(tail.clone());
        Self { ids, p, tail, negative_entropy }
    }

    /// Rows, of which each is one token or one image.
    pub fn rows(&self) -> usize {
        self.p.dims()[0]
    }

    /// The mean over rows of
    ///
    /// ```text
    /// KL = Σ_{top k} p ln(p / q) + p_tail ln(p_tail / q_tail)        nats, q = softmax(logits)
    /// ```
    ///
    /// the divergence of distributions whose least likely classes are counted together: never more than the divergence of the whole
    /// ones, and the same where `k` is all classes. Differentiable in `logits` `[.., classes]`.
    ///
    /// Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", at temperature 1
    /// (`docs/references.md#distillation`).
    ///
    /// # Panics
    ///
    /// If there are not as many rows.
    pub fn divergence<const D: usize>(&self, logits: Tensor<D>) -> Tensor<1> {
        let log_q = log_softmax(flat(logits), 1);
        let [rows, _] = log_q.dims();
        assert_eq!(rows, self.rows(), "the teacher has seen another number of rows");
        let top = log_q.clone().gather(1, self.ids.clone());
        // What is likely is put out of the way: the rest is summed on its own, and not as a small difference of large numbers.
        const AWAY: f32 = -1e4;
        let away = Tensor::full(top.dims(), AWAY, &top.device());
        let others = log_q.scatter(1, self.ids.clone(), away, IndexingUpdateOp::Add);
        let highest = others.clone().detach().max_dim(1);
        let tail = (others - highest.clone()).exp().sum_dim(1).log() + highest; // [rows, 1]
        let cross = (top * self.p.clone()).sum() + (tail * self.tail.clone()).sum();
        cross.neg().add_scalar(self.negative_entropy).div_scalar(rows as f64)
    }
}

/// `[.., classes]` as `[rows, classes]`.
fn flat<const D: usize>(logits: Tensor<D>) -> Tensor<2> {
    let dims = logits.dims();
    logits.reshape([dims[..D - 1].iter().product(), dims[D - 1]])
}

/// What a dense model says about some batches, one file for each in a folder, `00000.safetensors`: the ids and log-probabilities of
/// the likeliest classes.
///
/// A file appears by renaming, so that a run that was broken off goes on where it stopped.
#[derive(Clone, Debug)]
pub struct Teacher {
    folder: PathBuf,
    about: About,
}

/// What a cache is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct About {
    /// Of the model and the data, by whoever knows them.
    fingerprint: String,
    top: usize,
    batches: usize,
}

const ABOUT: &str = "teacher.json";

impl Teacher {
    /// Asks the model about every batch that is not in the folder yet.
    ///
    /// - `model`: loaded as a whole, on a device without autodiff
    /// - `top`: classes kept of each row
    /// - `fingerprint`: of the model and the data; a cache with another one is refused
    /// - `observe`: called with the batches done; breaking out of it stops
    ///
    /// # Errors
    ///
    /// If files cannot be read or written, or are of something else; [`TuneError::Diverged`] if logits are not finite;
    /// [`TuneError::Interrupted`].
    pub fn ask<M: Model>(
        model: &M,
        batches: &[M::Input],
        top: usize,
        fingerprint: &str,
        folder: &Path,
        observe: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, TuneError> {
        let about = About { fingerprint: fingerprint.to_owned(), top, batches: batches.len() };
        let file = |source| TuneError::File { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(file)?;
        let mark = folder.join(ABOUT);
        if mark.exists() {
            let text = fs::read(&mark).map_err(|source| TuneError::File { path: mark.clone(), source })?;
            let found: About = serde_json::from_slice(&text)
                .map_err(|error| TuneError::Damaged { path: mark.clone(), reason: error.to_string() })?;
            if found != about {
                return Err(TuneError::OtherRun { path: mark, what: "teacher, data or top" });
            }
        } else {
            let text = serde_json::to_vec_pretty(&about).unwrap_or_default();
            write_file(&mark, &text)?;
        }
        let teacher = Self { folder: folder.to_owned(), about };
        for (index, batch) in batches.iter().enumerate() {
            if !teacher.path(index).exists() {
                let logits = flat(model.forward(batch.clone(), &mut ()));
                let [rows, classes] = logits.dims();
                let k = top.clamp(1, classes);
                let (log_p, ids) = log_softmax(logits, 1).topk_with_indices(k, 1);
                let log_p = host(log_p);
                if log_p.iter().any(|x| x.is_nan()) {
                    let tensor = format!("what the teacher says of batch {index}");
                    return Err(TuneError::Diverged { step: 0, tensor, kept: None });
                }
                let ids: Vec<f32> = ids.into_data().iter::<i64>().map(|id| id as f32).collect();
                let mut tensors = Tensors::default();
                tensors.put("log_p", [rows, k], log_p);
                // Exact: there are fewer classes than 2^24.
                tensors.put("ids", [rows, k], ids);
                tensors.put("classes", [1, 1], vec![classes as f32]);
                write_file(&teacher.path(index), &tensors.to_bytes(&[]))?;
            }
            if observe(index + 1).is_break() {
                return Err(TuneError::Interrupted { step: 0 });
            }
        }
        Ok(teacher)
    }

    /// What it said of one batch, on a device.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Panics
    ///
    /// If there is no such batch.
    pub fn targets(&self, index: usize, device: &Device) -> Result<Targets, TuneError> {
        assert!(index < self.about.batches, "batch {index} of {}", self.about.batches);
        let path = self.path(index);
        let (mut tensors, _) = Tensors::from_bytes(&read_file(&path)?, &path)?;
        let mut take = |name: &str| tensors.take(name, &path);
        let (shape, log_p) = take("log_p")?;
        let (_, ids) = take("ids")?;
        let (_, classes) = take("classes")?;
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), device);
        let log_p = Tensor::<2>::from_data(TensorData::new(log_p, shape), device);
        Ok(Targets::from_parts(ids, log_p, classes.first().is_some_and(|classes| shape[1] as f32 >= *classes)))
    }

    /// Batches that it was asked about.
    pub fn batches(&self) -> usize {
        self.about.batches
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:05}.safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use quench_metrics::kl_per_token;

    use super::*;
    use crate::testing::{Net, matrix, on};

    fn logits(seed: u64, device: &Device) -> Tensor<3> {
        on(&matrix(12, 9, seed, 4.0), device).reshape([3, 4, 9])
    }

    /// With all classes it is the divergence of `metrics`; with fewer, it is less the fewer there are.
    #[test]
    fn fewer_classes_see_less() {
        let device = Device::flex();
        let (p, q) = (logits(1, &device), logits(2, &device));
        let whole = kl_per_token(p.clone().reshape([12, 9]), q.clone().reshape([12, 9]));
        let whole = whole.iter().sum::<f32>() / 12.0;
        let of = |k| host(Targets::new(p.clone(), k).divergence(q.clone()))[0];
        let found: Vec<f32> = (1..=9).map(of).collect();
        assert!((found[8] - whole).abs() < 1e-5, "{} {whole}", found[8]);
        assert!(found.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6), "{found:?}");
        assert!(found[0] > 0.0 && found[0] < 0.9 * whole, "{found:?}");
        assert!(host(Targets::new(p.clone(), 4).divergence(p))[0].abs() < 1e-6);
    }

    /// With all classes the gradient is `(q − p) / rows`; with fewer, that of central differences.
    #[test]
    fn its_gradient_is_q_minus_p() {
        let device = Device::flex().autodiff();
        let (p, q) = (logits(1, &device), logits(2, &device));
        let softmax = |x: Tensor<3>| host(burn::tensor::activation::softmax(x, 2));
        let expected: Vec<f32> =
            softmax(p.clone()).iter().zip(softmax(q.clone())).map(|(p, q)| (q - p) / 12.0).collect();
        let gradient = |k| {
            let q = q.clone().require_grad();
            let targets = Targets::new(p.clone(), k);
            host(q.grad(&targets.divergence(q.clone()).backward()).unwrap())
        };
        for (found, expected) in gradient(9).iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let (targets, values) = (Targets::new(p.clone(), 3), host(q.clone()));
        let at = |index: usize, by: f32| {
            let mut values = values.clone();
            values[index] += by;
            let q = Tensor::<3>::from_data(TensorData::new(values, [3, 4, 9]), &device);
            f64::from(host(targets.divergence(q))[0])
        };
        let found = gradient(3);
        for index in (0..108).step_by(5) {
            let expected = (at(index, 1e-2) - at(index, -1e-2)) / 2e-2;
            assert!((f64::from(found[index]) - expected).abs() < 1e-4, "{index}: {} {expected}", found[index]);
        }
    }

    #[test]
    fn what_was_said_is_kept_and_not_asked_again() {
        let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
        let (net, batches) = (Net::dense(&device), Net::batches(3, 5, &device));
        let ask = |fingerprint: &str, stop_at: usize| {
            let mut observe = |done| if done == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            Teacher::ask(&net, &batches, 4, fingerprint, folder.path(), &mut observe)
        };
        assert!(matches!(ask("a", 1), Err(TuneError::Interrupted { .. })));
        let first = fs::metadata(folder.path().join("00000.safetensors")).unwrap().modified().unwrap();
        let teacher = ask("a", 9).unwrap();
        assert_eq!(teacher.batches(), 3);
        assert_eq!(fs::metadata(folder.path().join("00000.safetensors")).unwrap().modified().unwrap(), first);
        let other = logits(3, &device).reshape([12, 9]).slice([0..12, 0..5]).repeat_dim(1, 2);
        let other = other.repeat_dim(0, 3).slice([0..32, 0..10]);
        for (index, batch) in batches.iter().enumerate() {
            let kept = teacher.targets(index, &device).unwrap();
            let direct = Targets::new(net.forward(batch.clone(), &mut ()), 4);
            assert_eq!(kept.rows(), 32);
            let [kept, direct] = [kept, direct].map(|targets| host(targets.divergence(other.clone()))[0]);
            assert!((kept - direct).abs() < 1e-6, "{kept} {direct}");
        }
        assert!(matches!(ask("b", 9), Err(TuneError::OtherRun { .. })));
    }
}
