//! Bytes divided over tensors so that the least damage is done: numbers only, no tensors.
//!
//! Every tensor has candidates, each with its bytes and the damage it is predicted to do; one of each is chosen.
//!
//! ```text
//! minimize  Σ damage[t, c(t)]   over   Σ bytes[t, c(t)] ≤ budget
//! ```
//!
//! The lower convex hulls of the candidates are walked down by falling damage per byte, which is what a Lagrangian multiplier does;
//! what is left of the budget goes where a byte gains most; then a search over partial sums, cut off by the multiplier's bound, looks
//! for something better, and is exact where it ends. The result is never worse than the same label for every tensor in as many bytes.
//!
//! Source: Shoham and Gersho 1988, "Efficient Bit Allocation for an Arbitrary Set of Quantizers"; Everett 1963
//! (`docs/references.md#bit-allocation`).

mod search;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One way to keep a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Bytes that it takes, with everything that belongs to it.
    pub bytes: u64,
    /// The damage that it is predicted to do; damages of different tensors are added.
    pub damage: f64,
    /// Which configuration it is: candidates of different tensors with the same label are of the same one.
    pub label: usize,
}

/// A choice for every tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Allocation {
    /// Which of its candidates each tensor has.
    pub choices: Vec<usize>,
    /// Bytes in all.
    pub bytes: u64,
    /// Predicted damage in all.
    pub damage: f64,
    /// Whether it is known that no other choice within the budget does less.
    pub exact: bool,
}

/// Why there is no allocation.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum AllocateError {
    /// A tensor without candidates.
    #[error("tensor {tensor} has no candidates")]
    NoCandidates {
        /// Which tensor.
        tensor: usize,
    },
    /// A damage that is no number to be added.
    #[error("candidate {candidate} of tensor {tensor} has the damage {damage}, a finite one expected")]
    Damage {
        /// Which tensor.
        tensor: usize,
        /// Which of its candidates.
        candidate: usize,
        /// The damage given.
        damage: f64,
    },
    /// Even the smallest candidates are larger than the budget.
    #[error("{budget} bytes are too few: the smallest candidates take {smallest}")]
    Infeasible {
        /// Bytes asked for.
        budget: u64,
        /// Bytes of the smallest candidates of all tensors.
        smallest: u64,
    },
}

/// Chooses a candidate for every tensor so that the predicted damage is small within `budget` bytes.
///
/// # Errors
/// [`AllocateError::Infeasible`] with the smallest possible size; a tensor without candidates, a damage that is not finite.
pub fn allocate(tensors: &[Vec<Candidate>], budget: u64) -> Result<Allocation, AllocateError> {
    let smallest = check(tensors)?;
    if smallest > budget {
        return Err(AllocateError::Infeasible { budget, smallest });
    }
    let (mut best, slope) = sweep(tensors, budget);
    fill(tensors, budget, &mut best);
    for mut other in uniforms(tensors).filter(|other| other.bytes <= budget) {
        fill(tensors, budget, &mut other);
        if other.damage < best.damage {
            best = other;
        }
    }
    Ok(search::improve(tensors, budget, slope, best))
}

/// The best allocation of one label for all tensors within `budget` bytes; `None` where no label is everywhere and fits.
pub fn uniform(tensors: &[Vec<Candidate>], budget: u64) -> Option<Allocation> {
    uniforms(tensors).filter(|found| found.bytes <= budget).min_by(|a, b| a.damage.total_cmp(&b.damage))
}

/// The bytes of the smallest candidates.
fn check(tensors: &[Vec<Candidate>]) -> Result<u64, AllocateError> {
    let mut smallest = 0_u64;
    for (tensor, candidates) in tensors.iter().enumerate() {
        if let Some((candidate, found)) = candidates.iter().enumerate().find(|(_, found)| !found.damage.is_finite()) {
            return Err(AllocateError::Damage { tensor, candidate, damage: found.damage });
        }
        let Some(least) = candidates.iter().map(|candidate| candidate.bytes).min() else {
            return Err(AllocateError::NoCandidates { tensor });
        };
        smallest = smallest.saturating_add(least);
    }
    Ok(smallest)
}

impl Allocation {
    fn of(tensors: &[Vec<Candidate>], choices: Vec<usize>) -> Self {
        let chosen = || tensors.iter().zip(&choices).map(|(candidates, &choice)| candidates[choice]);
        let bytes = chosen().fold(0, |bytes: u64, candidate| bytes.saturating_add(candidate.bytes));
        let damage = chosen().map(|candidate| candidate.damage).sum();
        Self { choices, bytes, damage, exact: false }
    }
}

/// One allocation for each label that every tensor has; of several candidates of a label the least harmful.
fn uniforms(tensors: &[Vec<Candidate>]) -> impl Iterator<Item = Allocation> {
    let of = |candidates: &[Candidate], label: usize| {
        let labelled = candidates.iter().enumerate().filter(move |(_, candidate)| candidate.label == label);
        labelled.min_by(|(_, a), (_, b)| a.damage.total_cmp(&b.damage)).map(|(at, _)| at)
    };
    let mut labels: Vec<usize> = tensors.first().into_iter().flatten().map(|candidate| candidate.label).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.into_iter().filter_map(move |label| {
        let choices: Option<Vec<usize>> = tensors.iter().map(|candidates| of(candidates, label)).collect();
        Some(Allocation::of(tensors, choices?))
    })
}

/// The candidates on the lower convex hull, from the smallest to the least harmful.
fn hull(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let at = |index: usize| (candidates[index].bytes as f64, candidates[index].damage);
    order.sort_by(|&a, &b| at(a).0.total_cmp(&at(b).0).then(at(a).1.total_cmp(&at(b).1)));
    let mut hull: Vec<usize> = Vec::new();
    for index in order {
        let (x, y) = at(index);
        if hull.last().is_some_and(|&last| at(last).1 <= y) {
            continue;
        }
        // The last one goes where the line from the one before it to this one passes below.
        while let [.., before, last] = hull[..] {
            let ((x0, y0), (x1, y1)) = (at(before), at(last));
            // One on the line stays: it makes a step in two.
            if (y1 - y0) * (x - x0) <= (y - y0) * (x1 - x0) {
                break;
            }
            hull.pop();
        }
        hull.push(index);
    }
    hull
}

/// Walks the hulls down by falling gain per byte as far as the budget goes; and the gain per byte at which it stopped.
fn sweep(tensors: &[Vec<Candidate>], budget: u64) -> (Allocation, f64) {
    struct Step {
        tensor: usize,
        to: usize,
        bytes: u64,
        slope: f64,
    }
    let (mut choices, mut steps) = (Vec::with_capacity(tensors.len()), Vec::new());
    for (tensor, candidates) in tensors.iter().enumerate() {
        let hull = hull(candidates);
        choices.push(hull[0]);
        steps.extend(hull.windows(2).map(|pair| {
            let (from, to) = (candidates[pair[0]], candidates[pair[1]]);
            let bytes = to.bytes - from.bytes;
            Step { tensor, to: pair[1], bytes, slope: (from.damage - to.damage) / bytes as f64 }
        }));
    }
    // Stable, so that the steps of one tensor stay in their order; its slopes fall already.
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope));
    let mut bytes = Allocation::of(tensors, choices.clone()).bytes;
    let mut slope = 0.0;
    for step in steps {
        if bytes + step.bytes > budget {
            slope = step.slope;
            break;
        }
        bytes += step.bytes;
        choices[step.tensor] = step.to;
    }
    (Allocation::of(tensors, choices), slope)
}

/// Spends what is left of the budget where a byte gains most, on candidates of the hulls or not.
fn fill(tensors: &[Vec<Candidate>], budget: u64, allocation: &mut Allocation) {
    loop {
        let left = budget - allocation.bytes;
        let mut best: Option<(f64, usize, usize)> = None;
        for (tensor, candidates) in tensors.iter().enumerate() {
            let now = candidates[allocation.choices[tensor]];
            for (choice, candidate) in candidates.iter().enumerate() {
                let gain = now.damage - candidate.damage;
                if gain > 0.0 && candidate.bytes <= now.bytes.saturating_add(left) {
                    let rate = gain / candidate.bytes.saturating_sub(now.bytes) as f64;
                    if best.is_none_or(|(best, ..)| rate > best) {
                        best = Some((rate, tensor, choice));
                    }
                }
            }
        }
        let Some((_, tensor, choice)) = best else { return };
        allocation.choices[tensor] = choice;
        *allocation = Allocation::of(tensors, std::mem::take(&mut allocation.choices));
    }
}

#[cfg(test)]
mod tests;
