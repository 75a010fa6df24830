//! What two clouds of vectors have in common, and what each of them is.

use std::collections::HashSet;

use burn::tensor::Tensor;
use quench_metrics::hypercubicity::{Cube, Hypercubicity};
use quench_metrics::topology::{Distances, Landmarks, Stability, persistence};
use quench_metrics::{
    Bootstrap, Coherence, CoherenceError, CoherenceOptions, Flips, Hidden, Latent, LatentOptions, Metric, Plane,
    Predictions, Total, Value, participation_ratio, two_nn,
};
use quench_report::Map;

use super::{Clouds, ContrastSettings, Named, Predicted, Scoring, Site};
use crate::document;

/// Widths up to which the axes of a covariance are found: beyond, minutes.
const WIDEST: usize = 2048;

/// Vectors on a map; more hide each other.
const ON_A_MAP: usize = 300;

/// The share of the half-width of a cube that is near its ends.
const NEAR: f64 = 0.2;

pub(super) fn compare(clouds: Clouds, metrics: &[Metric], settings: &ContrastSettings) -> Site {
    let Clouds { site, sides, sequences } = clouds;
    let [x, y] = sides;
    let (n, widths) = (x.dims()[0], [x.dims()[1], y.dims()[1]]);
    let hidden = Hidden { reference: x.clone(), approximation: y.clone(), sequences: &sequences };
    let scorings = metrics.iter().map(|metric| scoring(*metric, n, Some(&hidden), None, settings)).collect();
    let mut notes = Vec::new();
    let duplicates = [duplicates(&x), duplicates(&y)];
    for (side, twins) in ["reference", "approximation"].into_iter().zip(duplicates) {
        if twins > 0 {
            notes.push(format!(
                "{twins} of {n} vectors of the {side} equal another one; among them, neighbours are arbitrary"
            ));
        }
    }
    let seed = settings.bootstrap.seed;
    let corners = (n > 1).then(|| [&x, &y].map(|side| Hypercubicity::of(side.clone(), Cube::Fitted, NEAR, seed)));
    let latent = latent([&x, &y], settings.bootstrap, &mut notes);
    let shape = (n > 2).then(|| shape(&site, [&x, &y], settings.landmarks));
    let map = map(&site, [&x, &y], &mut notes);
    Site { site, vectors: n, widths, duplicates, metrics: scorings, corners, latent, notes, shape, map }
}

/// One metric, or why it says nothing.
fn scoring(
    metric: Metric,
    n: usize,
    hidden: Option<&Hidden<'_>>,
    predictions: Option<&Predictions<'_>>,
    settings: &ContrastSettings,
) -> Scoring {
    let needed = metric.fewest(settings.k);
    let nothing = |why: String, needed| Scoring { metric, value: None, inconclusive: Some(why), needed };
    if n < needed {
        return nothing(format!("inconclusive: {n} samples, and at least {needed} are needed"), Some(needed));
    }
    let options = CoherenceOptions {
        metrics: vec![metric],
        k: settings.k,
        bootstrap: settings.bootstrap,
        ..CoherenceOptions::default()
    };
    match Coherence::measure(&options, hidden, predictions) {
        Ok(found) => {
            let value = found.scored.into_iter().next().map(|scored| scored.value);
            Scoring { metric, value, inconclusive: None, needed: None }
        }
        Err(CoherenceError::Undefined(_)) => nothing("inconclusive: one side does not vary".to_owned(), None),
        Err(error) => nothing(format!("inconclusive: {error}"), None),
    }
}

pub(super) fn predictions(found: &Predicted, metrics: &[Metric], settings: &ContrastSettings) -> Vec<Scoring> {
    let Predicted { kl, agreement, sequences, .. } = found;
    let predictions = Predictions { kl, agreement, sequences };
    metrics.iter().map(|metric| scoring(*metric, kl.len(), None, Some(&predictions), settings)).collect()
}

/// Means over the labels, and answers that changed.
pub(super) fn divergences(found: &Predicted, settings: &ContrastSettings) -> Vec<Named> {
    let mean = |name: &str, values: &[f32]| {
        let totals = totals(values, &found.sequences);
        let sum: f64 = totals.iter().map(|total| total.sum).sum();
        let value = Value::measured(sum / values.len() as f64, "mean over labels", values.len());
        let interval = settings.bootstrap.mean(&totals);
        let value = value.with_interval(interval, settings.bootstrap.seed).with_null(0.0);
        Named { name: name.to_owned(), unit: "nats per label".to_owned(), value: Value { null: None, ..value } }
    };
    let mut named = vec![mean("KL divergence", &found.kl), mean("Jensen-Shannon divergence", &found.jsd)];
    if let Some([before, after]) = &found.right {
        let flips = Flips::of(before, after);
        if let Some(share) = flips.share() {
            let estimator = format!("{} answers lost, {} gained", flips.lost, flips.gained);
            let value = Value::measured(share, estimator, flips.n);
            named.push(Named {
                name: "right answers that flipped".to_owned(),
                unit: "share of tokens".to_owned(),
                value,
            });
        }
    }
    named
}

fn totals(values: &[f32], sequences: &[usize]) -> Vec<Total> {
    let mut rest = values;
    let total = |n: &usize| {
        let (part, behind) = rest.split_at(*n);
        rest = behind;
        Total { sum: part.iter().map(|x| f64::from(*x)).sum(), n: *n }
    };
    sequences.iter().map(total).collect()
}

/// How many rows equal an earlier one, bit by bit.
fn duplicates(x: &Tensor<2>) -> usize {
    let [n, width] = x.dims();
    let values: Vec<u32> = host(x.clone()).into_iter().map(f32::to_bits).collect();
    let distinct: HashSet<&[u32]> = values.chunks(width.max(1)).collect();
    n - distinct.len()
}

fn host(x: Tensor<2>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().unwrap_or_else(|error| unreachable!("a float tensor converts to f32: {error:?}"))
}

/// Dimensions of both sides, and the space of the reference with what of the approximation is outside.
fn latent([x, y]: [&Tensor<2>; 2], bootstrap: Bootstrap, notes: &mut Vec<String>) -> Vec<Named> {
    let named = |name: &str, unit: &str, value: Value| Named { name: name.to_owned(), unit: unit.to_owned(), value };
    let mut found = Vec::new();
    let (n, width) = (x.dims()[0], x.dims()[1]);
    for (side, vectors) in [("reference", x), ("approximation", y)] {
        if n > 2 {
            match two_nn(vectors.clone(), bootstrap) {
                Ok(value) => found.push(named(&format!("intrinsic dimension, {side}"), "", value)),
                Err(twins) => notes.push(format!("no intrinsic dimension of the {side}: {twins}")),
            }
        }
        match participation_ratio(vectors.clone()) {
            Some(ratio) => {
                let value = Value::measured(ratio, "participation ratio", n);
                found.push(named(&format!("dimensions that carry the variance, {side}"), "", value));
            }
            None => notes.push(format!("the {side} does not vary: it has no latent space")),
        }
    }
    if width > WIDEST {
        notes.push(format!("no latent space of vectors of width {width}, above {WIDEST}"));
    } else if let Some(latent) = Latent::fit(x.clone(), LatentOptions::default()) {
        found.push(named(
            "span that holds 99 % of the variance",
            "dimensions",
            Value::measured(latent.span() as f64, "principal axes", n),
        ));
        found.extend(
            latent.log2_volume(1000, bootstrap.seed).map(|value| named("volume of the latent space", "log2", value)),
        );
        if y.dims()[1] == width {
            let own = latent.escape_rate(x.clone(), bootstrap).value;
            let rate = latent.escape_rate(y.clone(), bootstrap).with_null(own);
            found.push(named("approximations outside of the latent space", "share", rate));
        }
    }
    found
}

/// Diagrams of the same landmarks on both sides; with one width, what is certified of them.
fn shape(site: &str, [x, y]: [&Tensor<2>; 2], landmarks: usize) -> quench_report::Shape {
    let landmarks = Landmarks::maxmin(x.clone(), landmarks.clamp(2, x.dims()[0]), 0);
    let (x, y) = (landmarks.of(x.clone()), landmarks.of(y.clone()));
    let diagrams = |vectors: &Tensor<2>| persistence(&Distances::of(vectors.clone()));
    let (before, after) = (diagrams(&x), diagrams(&y));
    let stability = (x.dims() == y.dims()).then(|| Stability::of(x.clone(), y, None));
    document::shape(site, x.dims()[0], &before, &after, stability.as_ref())
}

fn map(site: &str, [x, y]: [&Tensor<2>; 2], notes: &mut Vec<String>) -> Option<Map> {
    if x.dims() != y.dims() || x.dims()[1] > WIDEST {
        notes.push(format!("no map of vectors of widths {} and {}", x.dims()[1], y.dims()[1]));
        return None;
    }
    let plane = Plane::of(x.clone())?;
    let every = x.dims()[0].div_ceil(ON_A_MAP);
    let places = |vectors: &Tensor<2>| plane.places(vectors.clone()).into_iter().step_by(every).collect();
    Some(Map {
        title: site.to_owned(),
        axes: ["first principal component".to_owned(), "second principal component".to_owned()],
        explained: Some(plane.explained),
        names: Vec::new(),
        before: places(x),
        after: places(y),
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use quench_metrics::Source;

    use super::*;

    /// With the fewest samples every metric has a value, with one less it says how many those are.
    #[test]
    fn the_fewest_samples_are_enough() {
        let settings = ContrastSettings { k: 3, ..ContrastSettings::default() };
        for metric in Metric::ALL.into_iter().filter(|metric| !metric.of_predictions()) {
            let needed = metric.fewest(settings.k);
            let found = |n: usize| {
                let values = Source::Gaussian.samples(n * 4, 7);
                let x = Tensor::<2>::from_data(TensorData::new(values, [n, 4]), &Device::flex());
                let hidden = Hidden { reference: x.clone(), approximation: x * 2.0, sequences: &[] };
                scoring(metric, n, Some(&hidden), None, &settings)
            };
            let (enough, few) = (found(needed), found(needed - 1));
            assert!(enough.value.is_some_and(|value| value.value > 0.99) && enough.needed.is_none(), "{metric}");
            assert_eq!((few.value, few.needed), (None, Some(needed)), "{metric}");
        }
    }

    #[test]
    fn equal_rows_are_counted() {
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]], &Device::flex());
        assert_eq!(duplicates(&x), 2);
    }

    /// Two sequences of two labels, by hand.
    #[test]
    fn divergences_are_means_over_labels() {
        let found = Predicted {
            kl: vec![0.0, 1.0, 2.0, 3.0],
            jsd: vec![0.5; 4],
            agreement: vec![true; 4],
            right: Some([vec![true, true], vec![true, false]]),
            sequences: vec![2, 2],
        };
        let values = divergences(&found, &ContrastSettings::default());
        assert_eq!(values.iter().map(|named| named.value.value).collect::<Vec<_>>(), [1.5, 0.5, 0.5]);
        let interval = values[0].value.interval.unwrap();
        assert_eq!((interval.low, interval.high), (0.5, 2.5));
    }
}
