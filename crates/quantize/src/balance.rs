//! Channel scales that make weights easier to round: AWQ and SmoothQuant.
//!
//! At a [`Seam`] a channel may be divided by any factor where it is written if it is multiplied with it where it is read:
//! `x / s` and `W · diag(s)`. The factors decide which weights of a group are large in it and so rounded well.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use quench_nn::{Model, Part, Seam, Section, Tap};

use crate::plan::Plan;
use crate::quantizer::{Matrix, Method, ScaleSearch};
use crate::run::{Event, check};
use crate::stage::pass;
use crate::stats::{Gram, Stats, host};
use crate::{QuantizeError, Target};

/// How the factors of channels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By the error that plain rounding leaves of the output, over two families of candidates:
    ///
    /// ```text
    /// s = a^α                α = 0, 0.05 .. 1       a: root mean square of the input
    /// s = a^α / w^(1 − α)    α = 0, 0.1 .. 1        w: mean of |W| over its group's largest, over the rows
    /// ```
    ///
    /// each divided by `√(max s · min s)`. Among them is `s = 1`, so that no seam gets worse than it was.
    ///
    /// Source: Lin et al. 2024, "AWQ", which takes the mean of `|x|`; the second family is of its authors' program.
    Awq,
    /// `s = √(max |x| / max |W|)`: inputs and weights share their outliers, for products that round their inputs.
    ///
    /// Source: Xiao et al. 2023, "SmoothQuant", with `α = 0.5`.
    SmoothQuant,
}

/// Factors for the seams of a model, and what they are good for.
#[derive(Clone, Debug, Default)]
pub struct Balanced {
    /// For each site the factor of each channel that is written; seams that stay as they are do not stand here.
    pub factors: BTreeMap<String, Vec<f32>>,
    /// For each seam that [`Balance::Awq`] looked at what the factors gain, in dB of output error of plain rounding.
    pub gains: BTreeMap<String, f64>,
}

/// A weight that reads a seam, as it will be quantized.
struct Reader {
    name: String,
    w: Matrix,
    target: Target,
    search: ScaleSearch,
}

/// Finds factors for all seams of `model` of which `plan` quantizes a reader, in one walk with the dense weights.
///
/// # Errors
/// [`QuantizeError::Interrupted`] if `observe` broke off, [`QuantizeError::NoCalibration`] if no batch comes by a seam, and
/// whatever the model or a quantizer reports.
pub fn balance<M: Model>(
    model: &mut M,
    plan: &Plan,
    how: Balance,
    batches: &[M::Input],
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Balanced, QuantizeError> {
    let quantized = |seam: &Seam| seam.readers.iter().any(|reader| plan.treatment(reader).is_some());
    let seams: Vec<Seam> = model.seams().into_iter().filter(quantized).collect();
    let sections = model.sections();
    let last = seams.iter().filter_map(|seam| sections.iter().position(|section| *section == seam.section)).max();
    let mut balanced = Balanced::default();
    let mut carries = Vec::new();
    let walk = &sections[..last.map_or(0, |last| last + 1)];
    for (index, section) in walk.iter().copied().enumerate() {
        check(observe(Event::Section { section, stage: 0, index, total: walk.len() }))?;
        model.load(section)?;
        let here: Vec<&Seam> = seams.iter().filter(|seam| seam.section == section).collect();
        let sites = || here.iter().map(|seam| seam.site.clone());
        let (mut grams, mut peaks) = match how {
            Balance::Awq => (Stats::at(sites()), Peaks::default()),
            Balance::SmoothQuant => (Stats::default(), Peaks::at(sites())),
        };
        let mut next = Vec::with_capacity(batches.len());
        for (done, batch) in batches.iter().enumerate() {
            next.extend(pass(model, section, batch, carries.get(done), &mut (&mut grams, &mut peaks)));
            check(observe(Event::Batches { done: done + 1, total: batches.len() }))?;
        }
        carries = next;
        for seam in here {
            let readers = readers(model, section, seam, plan);
            let missing = || QuantizeError::NoCalibration { layer: seam.readers.join(", "), method: how.name() };
            let factors = match how {
                Balance::Awq => {
                    let gram = grams.gram(&seam.site).ok_or_else(missing)?;
                    let (factors, gain) = awq(seam, &readers, gram)?;
                    balanced.gains.insert(seam.site.clone(), gain);
                    factors
                }
                Balance::SmoothQuant => {
                    Some(smooth(seam, &readers, &peaks.sites.remove(&seam.site).flatten().ok_or_else(missing)?))
                }
            };
            balanced.factors.extend(factors.map(|factors| (seam.site.clone(), factors)));
        }
        model.release(section);
    }
    Ok(balanced)
}

impl Balance {
    /// Its name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::SmoothQuant => "smoothquant",
        }
    }
}

/// The quantized weights that read a seam.
fn readers<M: Model>(model: &mut M, section: Section, seam: &Seam, plan: &Plan) -> Vec<Reader> {
    let reader = |Part { name, weight, .. }: Part<'_>| {
        let treatment = plan.treatment(&name).filter(|_| seam.readers.contains(&name))?;
        let [rows, columns] = weight.shape();
        let w = Matrix { rows, columns, values: host(weight.val()) };
        Some(Reader { name, w, target: *treatment.stages.last()?, search: treatment.method.search() })
    };
    model.open(section).into_iter().filter_map(reader).collect()
}

/// The best factors of the grid, if any is better than 1, and their gain in dB.
fn awq(seam: &Seam, readers: &[Reader], gram: &Gram) -> Result<(Option<Vec<f32>>, f64), QuantizeError> {
    let inputs = written(seam, &gram.importance(), |sum, h| sum + h);
    let inputs: Vec<f64> = inputs.iter().zip(counts(seam)).map(|(sum, count)| (sum / count).sqrt()).collect();
    let spread = written(seam, &spread(readers), |sum, w| sum + w);
    let plain = (1..=20).map(|step| power(&inputs, f64::from(step) / 20.0));
    let shared = (0..=10).map(|step| f64::from(step) / 10.0).map(|alpha| {
        let weights = power(&spread, alpha - 1.0);
        power(&inputs, alpha).into_iter().zip(weights).map(|(a, w)| a * w).collect()
    });
    let before = loss(seam, readers, gram, &vec![1.0; inputs.len()])?;
    let mut best = (before, None);
    for factors in plain.chain(shared) {
        let factors = centred(&factors);
        let after = loss(seam, readers, gram, &factors)?;
        if after < best.0 {
            best = (after, Some(factors));
        }
    }
    let gain = if best.1.is_some() { 10.0 * (before / best.0).log10() } else { 0.0 };
    Ok((best.1, gain))
}

/// `√(max |x| / max |W|)` for each channel; 1 where either is 0.
fn smooth(seam: &Seam, readers: &[Reader], peaks: &[f32]) -> Vec<f32> {
    let columns = peaks.len();
    let mut largest = vec![0.0_f32; columns];
    for reader in readers {
        for row in reader.w.values.chunks_exact(columns) {
            largest.iter_mut().zip(row).for_each(|(largest, w)| *largest = largest.max(w.abs()));
        }
    }
    let (x, w) = (written(seam, peaks, f64::max), written(seam, &largest, f64::max));
    x.iter().zip(&w).map(|(x, w)| if *x > 0.0 && *w > 0.0 { (x / w).sqrt() as f32 } else { 1.0 }).collect()
}

/// `Σ tr(E G Eᵀ)` over the readers, with what plain rounding leaves of them under the given factors.
fn loss(seam: &Seam, readers: &[Reader], gram: &Gram, factors: &[f32]) -> Result<f64, QuantizeError> {
    let factors: Vec<f32> = seam.source.iter().map(|&channel| factors[channel]).collect();
    // Only a search that weighs its errors looks at the inputs as they will be.
    let weighed = readers.iter().any(|reader| reader.search == ScaleSearch::Gram);
    let scaled = weighed.then(|| divided(gram, &factors));
    let mut sum = 0.0;
    for Reader { name, w, target, search } in readers {
        let by = |values: &[f32], factor: fn(f32, f32) -> f32| -> Vec<f32> {
            values
                .chunks_exact(w.columns)
                .flat_map(|row| row.iter().zip(&factors).map(|(&w, &s)| factor(w, s)))
                .collect()
        };
        let larger = Matrix { values: by(&w.values, |w, s| w * s), ..*w };
        let decoded = Method::rtn(*search).quantize(name, &larger, *target, scaled.as_ref())?.packed.decode();
        let errors = by(&decoded, |w, s| w / s).iter().zip(&w.values).map(|(a, b)| a - b).collect();
        sum += gram.energy(&Matrix { values: errors, ..*w }).iter().sum::<f64>();
    }
    Ok(sum)
}

/// The Gram matrix of the inputs divided by their factors.
fn divided(gram: &Gram, factors: &[f32]) -> Gram {
    let n = factors.len();
    let by = Tensor::<2>::from_data(TensorData::new(factors.to_vec(), [1, n]), &gram.device());
    Gram::new(gram.sum() / by.clone() / by.transpose(), gram.count())
}

/// `w`: for each channel that is read the mean over the rows of `|W|` over the largest of its group.
fn spread(readers: &[Reader]) -> Vec<f32> {
    let Some(columns) = readers.first().map(|reader| reader.w.columns) else { return Vec::new() };
    let (mut sums, mut rows) = (vec![0.0_f32; columns], 0.0_f32);
    for reader in readers {
        let group = reader.target.group.size(columns);
        for row in reader.w.values.chunks_exact(columns) {
            for (sums, group) in sums.chunks_mut(group).zip(row.chunks(group)) {
                let largest = group.iter().fold(f32::MIN_POSITIVE, |largest, w| largest.max(w.abs()));
                sums.iter_mut().zip(group).for_each(|(sum, w)| *sum += w.abs() / largest);
            }
        }
        rows += reader.w.rows as f32;
    }
    sums.into_iter().map(|sum| sum / rows + 1e-4).collect()
}

/// Numbers of the channels that are read, brought together for those that are written.
fn written(seam: &Seam, values: &[f32], join: fn(f64, f64) -> f64) -> Vec<f64> {
    let mut joined = vec![0.0; seam.written()];
    seam.source.iter().zip(values).for_each(|(&channel, &x)| joined[channel] = join(joined[channel], f64::from(x)));
    joined
}

/// How many channels read each one that is written.
fn counts(seam: &Seam) -> Vec<f64> {
    written(seam, &vec![1.0; seam.source.len()], |sum, one| sum + one)
}

fn power(values: &[f64], exponent: f64) -> Vec<f64> {
    values.iter().map(|value| value.powf(exponent)).collect()
}

/// Divided by `√(max · min)`.
fn centred(factors: &[f64]) -> Vec<f32> {
    let largest = factors.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let smallest = factors.iter().copied().fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
    factors.iter().map(|factor| (factor / (largest * smallest).sqrt()) as f32).collect()
}

/// A tap that keeps the largest magnitude of each channel at the sites it was asked about.
#[derive(Debug, Default)]
struct Peaks {
    sites: BTreeMap<String, Option<Vec<f32>>>,
}

impl Peaks {
    fn at(sites: impl IntoIterator<Item = String>) -> Self {
        Self { sites: sites.into_iter().map(|site| (site, None)).collect() }
    }
}

impl Tap for Peaks {
    fn sees(&self, site: &str) -> bool {
        self.sites.contains_key(site)
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        if let Some(peaks) = self.sites.get_mut(site) {
            let (dims, width) = (x.dims(), x.dims()[D - 1]);
            let rows = x.clone().reshape([dims.iter().product::<usize>() / width, width]);
            let largest = host(rows.abs().max_dim(0));
            *peaks = Some(match peaks.take() {
                None => largest,
                Some(peaks) => peaks.into_iter().zip(largest).map(|(a, b)| a.max(b)).collect(),
            });
        }
        x
    }
}

/// What plain rounding gains where `after` holds other weights than `before`, in dB of signal over error, as a mean over the
/// weights; 0 where nothing that `plan` quantizes differs.
///
/// It looks at weights alone: a prediction that needs no data.
///
/// - `observe`: called with every section; breaking out of it stops
///
/// # Errors
/// [`QuantizeError::Interrupted`] if `observe` broke off, and whatever the models or a quantizer report.
pub fn rounding_gain<M: Model>(
    before: &mut M,
    after: &mut M,
    plan: &Plan,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<f64, QuantizeError> {
    let (mut sum, mut count) = (0.0, 0.0);
    let sections = before.sections();
    let total = sections.len();
    for (index, section) in sections.into_iter().enumerate() {
        check(observe(Event::Section { section, stage: 0, index, total }))?;
        before.load(section)?;
        after.load(section)?;
        for (old, new) in before.open(section).into_iter().zip(after.open(section)) {
            let Some(treatment) = plan.treatment(&old.name) else { continue };
            let Some(target) = treatment.stages.last() else { continue };
            let [old, new] = [old.weight, new.weight].map(|weight| Matrix::of(weight));
            if old.values == new.values {
                continue;
            }
            let method = match treatment.method.search() {
                ScaleSearch::Gram => Method::rtn(ScaleSearch::Mse),
                search => Method::rtn(search),
            };
            let name = section.to_string();
            let [before, after] = [snr(&name, &old, method, *target)?, snr(&name, &new, method, *target)?];
            let weights = old.values.len() as f64;
            sum += weights * (after - before);
            count += weights;
        }
        before.release(section);
        after.release(section);
    }
    Ok(if count > 0.0 { sum / count } else { 0.0 })
}

/// `10 log10(Σ w² / Σ (ŵ − w)²)`.
fn snr(layer: &str, w: &Matrix, method: Method, target: Target) -> Result<f64, QuantizeError> {
    let decoded = method.quantize(layer, w, target, None)?.packed.decode();
    let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().max(f64::MIN_POSITIVE);
    let signal = energy(&mut w.values.iter().map(|&w| f64::from(w)));
    let error = energy(&mut w.values.iter().zip(&decoded).map(|(&w, &d)| f64::from(w) - f64::from(d)));
    Ok(10.0 * (signal / error).log10())
}
