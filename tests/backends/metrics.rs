//! The metrics of representations, on every device compiled in, against their definitions in f64 on the host.

use burn::tensor::Tensor;
use quench::metrics::{
    Analogies, Latent, LatentOptions, Neighbours, Pairs, Preservation, Reconstruction, cka, jsd_per_token,
    kl_per_token, known_answers, participation_ratio, procrustes, require, rsa, spearman, top_agreement, two_nn,
};

use crate::{devices, tensor};

const POINTS: usize = 60;
const WIDTH: usize = 7;
const K: usize = 5;

type Metric = fn(Tensor<2>, Tensor<2>) -> f64;

/// A metric, what f64 has by its definition, and how far f32 may be from that.
struct Row {
    name: &'static str,
    of: Metric,
    expected: fn(&Points, &Points) -> f64,
    within: f64,
}

const TABLE: &[Row] = &[
    Row { name: "debiased CKA", of: |x, y| cka(x, y).unwrap(), expected: debiased_cka, within: 1e-5 },
    Row {
        name: "RSA",
        of: |x, y| rsa(x, y, Pairs::default()).unwrap(),
        expected: correlation_of_distances,
        within: 1e-5,
    },
    Row {
        name: "kNN overlap",
        of: |x, y| mean(Neighbours::of(x, K).overlap(&Neighbours::of(y, K))),
        expected: overlap,
        within: 1e-6,
    },
    Row {
        name: "trustworthiness",
        of: |x, y| mean(Preservation::of(x, y, K).trustworthiness),
        expected: trust,
        within: 1e-6,
    },
    Row {
        name: "continuity",
        of: |x, y| mean(Preservation::of(x, y, K).continuity),
        expected: |x, y| trust(y, x),
        within: 1e-6,
    },
    Row { name: "KL divergence", of: |x, y| mean(kl_per_token(x, y)), expected: divergence, within: 1e-6 },
    Row { name: "JSD", of: |x, y| mean(jsd_per_token(x, y)), expected: jensen_shannon, within: 1e-6 },
    Row { name: "top-3 agreement", of: |x, y| mean(top_agreement(x, y, 3)), expected: top_three, within: 1e-6 },
    Row {
        name: "participation ratio",
        of: |x, _| participation_ratio(x).unwrap(),
        expected: participation,
        within: 1e-4,
    },
    Row { name: "TwoNN", of: |x, _| two_nn(x, Default::default()).unwrap().value, expected: two_nearest, within: 1e-4 },
];

/// No definition is shorter than the function: what is the same on all devices.
const ALIKE: &[(&str, Metric)] = &[
    ("Procrustes", |x, y| procrustes(x, y).unwrap()),
    ("reconstruction", |x, y| Reconstruction::of(x, y, K).loss(0..POINTS).unwrap()),
    ("analogies", |x, _| Analogies::of(x, &[[0, 1, 2, 3], [9, 4, 30, 11]]).places.iter().sum::<usize>() as f64),
    ("escape rate", |x, y| {
        let latent = Latent::fit(x, LatentOptions { quantile: 0.9, ..Default::default() }).unwrap();
        latent.escape_rate(y, Default::default()).value
    }),
];

#[test]
fn metrics_are_their_definitions() {
    let x = Points::new(|i| (i as f64 * 0.731).sin() * 2.0 + (i as f64 * 0.117 + 1.0).cos());
    let y = Points::new(|i| x.0[i / WIDTH][i % WIDTH] + 0.4 * (i as f64 * 1.913).sin());
    let mut failures = Vec::new();
    let mut alike: Option<Vec<f64>> = None;
    for (name, device) in devices() {
        let on = |points: &Points| tensor(&points.values(), [POINTS, WIDTH], &device);
        for row in TABLE {
            let (found, expected) = ((row.of)(on(&x), on(&y)), (row.expected)(&x, &y));
            if (found - expected).abs() > row.within || found.is_nan() {
                failures.push(format!("{name}: {}: {found}, by its definition {expected}", row.name));
            }
        }
        let found: Vec<f64> = ALIKE.iter().map(|(_, of)| of(on(&x), on(&y))).collect();
        let first = alike.get_or_insert_with(|| found.clone());
        for (((metric, _), found), first) in ALIKE.iter().zip(&found).zip(first) {
            if (found - *first).abs() > 1e-5 || found.is_nan() {
                failures.push(format!("{name}: {metric}: {found}, on the first device {first}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn known_answers_hold_on_every_device() {
    for (_, device) in devices() {
        require(&known_answers(), &device);
    }
}

fn mean(values: Vec<f32>) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

/// Rows in f64 that f32 holds exactly.
struct Points(Vec<Vec<f64>>);

impl Points {
    fn new(value: impl Fn(usize) -> f64) -> Self {
        let row = |row: usize| (0..WIDTH).map(|column| f64::from(value(row * WIDTH + column) as f32)).collect();
        Self((0..POINTS).map(row).collect())
    }

    fn values(&self) -> Vec<f32> {
        self.0.iter().flatten().map(|value| *value as f32).collect()
    }

    fn distance(&self, i: usize, j: usize) -> f64 {
        self.0[i].iter().zip(&self.0[j]).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    }

    /// All others, the nearest first.
    fn order(&self, point: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..POINTS).filter(|other| *other != point).collect();
        order.sort_by(|a, b| self.distance(point, *a).total_cmp(&self.distance(point, *b)));
        order
    }

    fn probabilities(&self, row: usize) -> Vec<f64> {
        let sum: f64 = self.0[row].iter().map(|x| x.exp()).sum();
        self.0[row].iter().map(|x| x.exp() / sum).collect()
    }
}

fn average(of: impl Fn(usize) -> f64) -> f64 {
    (0..POINTS).map(of).sum::<f64>() / POINTS as f64
}

/// With `n × n` kernels.
fn debiased_cka(x: &Points, y: &Points) -> f64 {
    let kernel = |x: &Points, i: usize, j: usize| -> f64 {
        if i == j { 0.0 } else { x.0[i].iter().zip(&x.0[j]).map(|(a, b)| a * b).sum() }
    };
    let row = |x: &Points, i: usize| (0..POINTS).map(|j| kernel(x, i, j)).sum::<f64>();
    let hsic = |x: &Points, y: &Points| {
        let n = POINTS as f64;
        let trace: f64 = (0..POINTS)
            .flat_map(|i| (0..POINTS).map(move |j| (i, j)))
            .map(|(i, j)| kernel(x, i, j) * kernel(y, j, i))
            .sum();
        let totals = (0..POINTS).map(|i| row(x, i)).sum::<f64>() * (0..POINTS).map(|i| row(y, i)).sum::<f64>();
        let both: f64 = (0..POINTS).map(|i| row(x, i) * row(y, i)).sum();
        trace + totals / ((n - 1.0) * (n - 2.0)) - 2.0 * both / (n - 2.0)
    };
    hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
}

fn correlation_of_distances(x: &Points, y: &Points) -> f64 {
    let distances =
        |x: &Points| -> Vec<f64> { (0..POINTS).flat_map(|i| (0..i).map(move |j| x.distance(i, j))).collect() };
    spearman(&distances(x), &distances(y)).unwrap()
}

fn overlap(x: &Points, y: &Points) -> f64 {
    average(|point| {
        let other = &y.order(point)[..K];
        x.order(point)[..K].iter().filter(|index| other.contains(index)).count() as f64 / K as f64
    })
}

fn trust(x: &Points, y: &Points) -> f64 {
    let excess = average(|point| {
        let order = x.order(point);
        let rank = |index: &usize| order.iter().position(|other| other == index).unwrap() + 1;
        y.order(point)[..K].iter().map(|index| rank(index).saturating_sub(K)).sum::<usize>() as f64
    });
    1.0 - 2.0 / (K * (2 * POINTS - 3 * K - 1)) as f64 * excess
}

fn relative_entropy(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

fn divergence(x: &Points, y: &Points) -> f64 {
    average(|row| relative_entropy(&x.probabilities(row), &y.probabilities(row)))
}

fn jensen_shannon(x: &Points, y: &Points) -> f64 {
    average(|row| {
        let (p, q) = (x.probabilities(row), y.probabilities(row));
        let middle: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (p + q) / 2.0).collect();
        (relative_entropy(&p, &middle) + relative_entropy(&q, &middle)) / 2.0
    })
}

fn top_three(x: &Points, y: &Points) -> f64 {
    let largest = |row: &[f64]| {
        let mut order: Vec<usize> = (0..WIDTH).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.truncate(3);
        order
    };
    average(|row| {
        let other = largest(&y.0[row]);
        largest(&x.0[row]).iter().filter(|index| other.contains(index)).count() as f64 / 3.0
    })
}

fn participation(x: &Points, _: &Points) -> f64 {
    let centre: Vec<f64> = (0..WIDTH).map(|column| average(|row| x.0[row][column])).collect();
    let covariance = |a: usize, b: usize| average(|row| (x.0[row][a] - centre[a]) * (x.0[row][b] - centre[b]));
    let trace: f64 = (0..WIDTH).map(|a| covariance(a, a)).sum();
    trace * trace / (0..WIDTH * WIDTH).map(|index| covariance(index / WIDTH, index % WIDTH).powi(2)).sum::<f64>()
}

fn two_nearest(x: &Points, _: &Points) -> f64 {
    1.0 / average(|point| {
        let order = x.order(point);
        (x.distance(point, order[1]) / x.distance(point, order[0])).ln()
    })
}
