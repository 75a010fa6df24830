//! What two models make of the same inputs, inside and outside.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor};
use quench_metrics::{agreement, jsd_per_token, kl_per_token};
use quench_models::{Decoder, Encoder, Kind, ResNet, Sentences};
use quench_nn::{Role, Tap};
use quench_quantize::QuantizeError;

use super::{Clouds, Contrast, Predicted};
use crate::JobError;
use crate::job::{Observe, Step};
use crate::predict::interrupt;
use crate::subject::Subject;

/// The name of the one site of an encoder.
const SENTENCES: &str = "sentence vectors";

pub(super) fn collect(contrast: &Contrast, observe: Observe<'_>) -> Result<(Vec<Clouds>, Option<Predicted>), JobError> {
    let (reference, approximation) = (&contrast.reference, &contrast.approximation);
    let (kind, other) = (Kind::of(reference)?, Kind::of(approximation)?);
    if kind != other {
        return Err(JobError::Kinds {
            path: approximation.clone(),
            kind: other,
            against: reference.clone(),
            other: kind,
        });
    }
    let (clouds, predicted) = match kind {
        Kind::Decoder => run::<Decoder>(contrast, observe, |ids| Some(next(ids)))?,
        Kind::ResNet => run::<ResNet>(contrast, observe, |_| None)?,
        Kind::Encoder => return Ok((sentences(contrast, observe)?, None)),
    };
    Ok((clouds, Some(predicted)))
}

/// The token behind each: `[batch, seq]` → `[batch, seq − 1]`.
fn next(ids: &Tensor<2, Int>) -> Tensor<2, Int> {
    let [_, length] = ids.dims();
    ids.clone().slice_dim(1, 1..length)
}

/// Both models, each with all of its weights in memory.
fn pair<M: Subject>(contrast: &Contrast) -> Result<[M; 2], JobError> {
    let load = |folder| -> Result<M, JobError> {
        let mut model = M::from_folder(folder, &contrast.device)?;
        model.load_all().map_err(QuantizeError::from)?;
        model.set_activations(quench_kernels::Activations::F32);
        Ok(model)
    };
    Ok([load(&contrast.reference)?, load(&contrast.approximation)?])
}

fn run<M: Subject>(
    contrast: &Contrast,
    observe: Observe<'_>,
    answers: fn(&M::Input) -> Option<Tensor<2, Int>>,
) -> Result<(Vec<Clouds>, Predicted), JobError> {
    let models = pair::<M>(contrast)?;
    let wanted = sites(&models[0]);
    let settings = &contrast.settings;
    let inputs = models[0].calibration(&contrast.reference, &contrast.data, &settings.data, &contrast.device)?;
    let each = (settings.points / settings.data.samples.max(1)).max(1);
    let mut seen = [(); 2].map(|()| Seen { wanted: &wanted, each, found: BTreeMap::new(), sequences: Vec::new() });
    let mut predicted = Predicted::default();
    let total = inputs.batches.len();
    interrupt(observe(Step::Phase { name: "run", total }))?;
    for (done, batch) in inputs.batches.iter().enumerate() {
        interrupt(observe(Step::Progress { done, of: total, what: "" }))?;
        let [reference, other] = &models;
        let [seen, seen_other] = &mut seen;
        let logits = [reference.forward(batch.clone(), seen), other.forward(batch.clone(), seen_other)];
        let shapes = logits.each_ref().map(Tensor::dims);
        if shapes[0] != shapes[1] {
            return Err(JobError::OtherLayers {
                path: contrast.approximation.clone(),
                dense: contrast.reference.clone(),
            });
        }
        predicted.add(logits, answers(batch));
    }
    let [reference, other] = seen;
    let sequences = reference.sequences;
    let mut clouds = Vec::new();
    for ((site, x), (_, y)) in reference.found.into_iter().zip(other.found) {
        clouds.push(Clouds {
            site: wanted[site].clone(),
            sides: [x, y].map(|parts| Tensor::cat(parts, 0)),
            sequences: sequences.clone(),
        });
    }
    Ok((clouds, predicted))
}

impl Predicted {
    /// - `logits`: `[batch, labels, classes]` of both sides
    /// - `answers`: what is right for all labels but the last, where it is known
    fn add(&mut self, logits: [Tensor<3>; 2], answers: Option<Tensor<2, Int>>) {
        let [batch, labels, classes] = logits[0].dims();
        let right = answers.map(|answers| {
            let answers = answers.reshape([batch * (labels - 1)]);
            logits.each_ref().map(|logits| {
                let said = logits.clone().slice_dim(1, 0..labels - 1).argmax(2).reshape([batch * (labels - 1)]);
                let same = said.equal(answers.clone()).int().into_data().convert::<i32>();
                same.try_into_vec::<i32>().unwrap_or_default().into_iter().map(|same| same != 0).collect::<Vec<bool>>()
            })
        });
        if let Some(right) = right {
            let all = self.right.get_or_insert_default();
            all.iter_mut().zip(right).for_each(|(all, right)| all.extend(right));
        }
        let [p, q] = logits.map(|logits| logits.reshape([batch * labels, classes]));
        self.kl.extend(kl_per_token(p.clone(), q.clone()));
        self.jsd.extend(jsd_per_token(p.clone(), q.clone()));
        self.agreement.extend(agreement(p, q));
        self.sequences.extend(std::iter::repeat_n(labels, batch));
    }
}

/// Where to look: behind each block, at the residual stream; in a network without one, at what the head reads.
fn sites<M: Subject>(model: &M) -> Vec<String> {
    let layers = model.layers();
    let mut last: BTreeMap<usize, String> = BTreeMap::new();
    for layer in &layers {
        if let (Some(block), Some(site)) = (layer.block, &layer.residual) {
            last.insert(block, site.clone());
        }
    }
    if last.is_empty() {
        let heads = layers.iter().filter(|layer| layer.role == Role::Head).map(|layer| layer.site.clone());
        return heads.collect();
    }
    last.into_values().collect()
}

/// A tap that keeps some vectors of each sequence.
struct Seen<'a> {
    wanted: &'a [String],
    /// Vectors of a sequence.
    each: usize,
    /// By the number of the site.
    found: BTreeMap<usize, Vec<Tensor<2>>>,
    /// Vectors that were kept of each sequence; empty where that is one.
    sequences: Vec<usize>,
}

impl Tap for Seen<'_> {
    fn sees(&self, site: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        let Some(at) = self.wanted.iter().position(|wanted| wanted == site) else { return x };
        let shape = x.dims();
        let (batch, width) = (shape[0], shape[D - 1]);
        let length: usize = shape[1..D - 1].iter().product();
        let each = self.each.min(length);
        let device = x.device();
        // Evenly over the sequence, in the middles of equal parts: the first token of a text is like no other.
        let chosen: Vec<i32> = (0..each).map(|k| ((2 * k + 1) * length / (2 * each)) as i32).collect();
        let chosen = Tensor::<1, Int>::from_ints(chosen.as_slice(), &device);
        let kept = x.clone().reshape([batch, length, width]).select(1, chosen).reshape([batch * each, width]);
        self.found.entry(at).or_default().push(kept);
        if at == 0 && each > 1 {
            self.sequences.extend(std::iter::repeat_n(each, batch));
        }
        x
    }
}

fn sentences(contrast: &Contrast, observe: Observe<'_>) -> Result<Vec<Clouds>, JobError> {
    let [reference, other] = pair::<Encoder>(contrast)?;
    let device: &Device = &contrast.device;
    let inputs = reference.calibration(&contrast.reference, &contrast.data, &contrast.settings.data, device)?;
    let total = inputs.batches.len();
    interrupt(observe(Step::Phase { name: "run", total }))?;
    let mut sides: [Vec<Tensor<2>>; 2] = Default::default();
    for (done, batch) in inputs.batches.into_iter().enumerate() {
        interrupt(observe(Step::Progress { done, of: total, what: "" }))?;
        let batch: Sentences = batch;
        sides[0].push(reference.embed(batch.clone()));
        sides[1].push(other.embed(batch));
    }
    Ok(vec![Clouds {
        site: SENTENCES.to_owned(),
        sides: sides.map(|parts| Tensor::cat(parts, 0)),
        sequences: Vec::new(),
    }])
}
