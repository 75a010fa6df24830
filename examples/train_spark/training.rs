//! The training loop: AdamW on the weights that the model hands out.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;
use std::time::Instant;

use burn::module::Param;
use burn::optim::{AdamW, AdamWConfig, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use quench::models::Decoder;
use quench::nn::{Model, Section, Weight};

use crate::Result;
use crate::batches::Stream;
use crate::checkpoint::{self, CONTEXT};

/// One cycle of training: how long, how fast, and on windows of which length.
pub struct Schedule {
    /// Steps.
    pub steps: usize,
    /// The share of steps, the first ones, that see short windows: they cost less, and teach the near positions.
    pub short: f64,
    /// The highest learning rate.
    pub peak: f64,
}

impl Schedule {
    /// Up in a line for 60 steps, then down half a cosine to 2 % of the peak.
    fn rate(&self, step: usize) -> f64 {
        let warmup = WARMUP.min(self.steps / 2);
        if step < warmup {
            return self.peak * (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (self.steps - warmup) as f64;
        self.peak * (0.02 + 0.98 * 0.5 * (1.0 + (PI * done).cos()))
    }

    /// The number of windows and their length: always as many tokens.
    fn batch(&self, step: usize) -> (usize, usize) {
        if (step as f64) < self.short * self.steps as f64 { (8, CONTEXT / 2) } else { (4, CONTEXT) }
    }
}

const WARMUP: usize = 60;

/// Trains `decoder` on windows of `stream`, and writes it into `folder` whenever its perplexity on `judges` is lower than
/// before.
pub fn train(
    mut decoder: Decoder,
    stream: &mut Stream,
    judges: &[Vec<i32>],
    schedule: &Schedule,
    folder: &Path,
) -> Result<()> {
    let optimizer = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.05).build();
    let mut moments = Moments::new();
    decoder.load_all()?;
    each_weight(&mut decoder, |_, weight| {
        *weight = tracked(weight.val());
        Ok(())
    })?;
    let (begin, mut mean, mut best) = (Instant::now(), None, perplexity(&decoder, judges)?);
    for step in 0..schedule.steps {
        let (batch, length) = schedule.batch(step);
        let [ids, next] = stream.batch(batch, length, decoder.device());
        let loss = cross_entropy(decoder.forward(ids, &mut ()), next);
        let gradients = loss.backward();
        each_weight(&mut decoder, |name, weight| {
            let w = weight.val();
            let gradient = w.grad(&gradients).ok_or_else(|| format!("no gradient reached {name}"))?;
            let (w, state) = optimizer.step(schedule.rate(step), w.inner(), gradient, moments.remove(&name));
            *weight = tracked(w.autodiff());
            moments.extend(state.map(|state| (name, state)));
            Ok(())
        })?;

        let loss: f32 = loss.into_scalar();
        let smooth = mean.map_or(loss, |mean| 0.95 * mean + 0.05 * loss);
        mean = Some(smooth);
        let step = step + 1;
        if step % 50 == 0 {
            println!("step {step} of {}: loss {smooth:.3}, {:.0} s", schedule.steps, begin.elapsed().as_secs_f64());
        }
        if step % 250 == 0 || step == schedule.steps {
            let found = perplexity(&decoder, judges)?;
            let kept = found < best;
            if kept {
                best = found;
                save(&mut decoder, folder)?;
            }
            println!("step {step}: perplexity {found:.3} on the calibration text{}", if kept { ", kept" } else { "" });
        }
    }
    Ok(())
}

/// The state of the optimizer, by weight.
type Moments = BTreeMap<String, <AdamW as Optimizer>::State<2>>;

/// Shows `visit` every matrix, with its Hugging Face name.
fn each_weight(decoder: &mut Decoder, mut visit: impl FnMut(String, &mut Weight) -> Result<()>) -> Result<()> {
    let blocks = (0..decoder.blocks()).map(Section::Block);
    for section in [Section::Embedding].into_iter().chain(blocks).chain([Section::Head]) {
        decoder.open(section).into_iter().try_for_each(|part| visit(part.name, part.weight))?;
    }
    Ok(())
}

fn save(decoder: &mut Decoder, folder: &Path) -> Result<()> {
    let mut matrices = Vec::new();
    each_weight(decoder, |name, weight| {
        let values = weight.val().inner().into_data().try_into_vec().map_err(|error| format!("{name}: {error:?}"))?;
        matrices.push((name, weight.shape(), values));
        Ok(())
    })?;
    checkpoint::write(folder, matrices)
}

/// A weight whose gradient is kept.
fn tracked(w: Tensor<2>) -> Weight {
    Weight::Dense(Param::from_tensor(w.require_grad()))
}

/// The mean of `−ln p(next)`; logits `[batch, seq, vocab]`, next `[batch, seq]`.
fn cross_entropy(logits: Tensor<3>, next: Tensor<2, Int>) -> Tensor<1> {
    let [batch, seq, vocabulary] = logits.dims();
    let log_p = log_softmax(logits.reshape([batch * seq, vocabulary]), 1);
    log_p.gather(1, next.reshape([batch * seq, 1])).mean().neg()
}

/// `exp` of the mean loss over the windows, each of its tokens predicted from those before it in the window.
pub fn perplexity(decoder: &Decoder, windows: &[Vec<i32>]) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for window in windows {
        let length = window.len() - 1;
        let [ids, next] = [0, 1].map(|shift| {
            let ids = window[shift..shift + length].to_vec();
            Tensor::from_data(TensorData::new(ids, [1, length]), decoder.device())
        });
        let loss: f32 = cross_entropy(decoder.forward(ids, &mut ()), next).into_scalar();
        sum += f64::from(loss) * length as f64;
        count += length as f64;
    }
    Ok((sum / count).exp())
}
