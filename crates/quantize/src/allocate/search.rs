//! The best choice among all, where the search for it stays small.

use super::{Allocation, Candidate};

/// Partial sums that are kept at a time: with more, the search is given up.
const MOST: usize = 1 << 15;

/// What the tensors so far can do together, and how.
#[derive(Clone, Copy)]
struct Partial {
    bytes: u64,
    damage: f64,
    /// The partial sum that it was made from, and the candidate that was added.
    from: usize,
    choice: usize,
}

/// The best allocation within `budget`, or `best` where there is none better or they are too many to be searched.
///
/// Tensor by tensor, the sums of which none is both smaller and less harmful are kept, less those that cannot become better
/// than `best`: with any multiplier `λ ≥ 0`,
///
/// ```text
/// damage in the end  ≥  damage + λ · bytes + Σ over the other tensors of min (damage + λ · bytes)  −  λ · budget
/// ```
///
/// - `slope`: the `λ` at which walking down the hulls ended, for which the bound is tightest
pub(super) fn improve(tensors: &[Vec<Candidate>], budget: u64, slope: f64, best: Allocation) -> Allocation {
    let price = |candidate: &Candidate| candidate.damage + slope * candidate.bytes as f64;
    let cheapest = |candidates: &Vec<Candidate>| candidates.iter().map(price).fold(f64::INFINITY, f64::min);
    let smallest = |candidates: &Vec<Candidate>| candidates.iter().map(|candidate| candidate.bytes).min().unwrap_or(0);
    let mut others: f64 = tensors.iter().map(cheapest).sum();
    let mut reserve: u64 = tensors.iter().map(smallest).sum();
    let mut fronts: Vec<Vec<Partial>> = vec![vec![Partial { bytes: 0, damage: 0.0, from: 0, choice: 0 }]];
    for candidates in tensors {
        others -= cheapest(candidates);
        reserve -= smallest(candidates);
        let mut sums = Vec::new();
        for (from, before) in fronts[fronts.len() - 1].iter().enumerate() {
            for (choice, candidate) in candidates.iter().enumerate() {
                let bytes = before.bytes.saturating_add(candidate.bytes);
                let damage = before.damage + candidate.damage;
                let bound = damage + slope * (bytes as f64 - budget as f64) + others;
                // As much as rounding may be off: nothing is left out that could be better by more.
                if bytes.saturating_add(reserve) <= budget && bound <= best.damage + 1e-12 * best.damage.abs() {
                    sums.push(Partial { bytes, damage, from, choice });
                }
            }
        }
        sums.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage)));
        let mut least = f64::INFINITY;
        sums.retain(|sum| {
            let better = sum.damage < least;
            least = least.min(sum.damage);
            better
        });
        if sums.len() > MOST {
            return best;
        }
        fronts.push(sums);
    }
    let exact = |best: Allocation| Allocation { exact: true, ..best };
    let last = &fronts[fronts.len() - 1];
    // By falling damage: the last is the best.
    let Some(mut at) = last.len().checked_sub(1).filter(|at| last[*at].damage < best.damage) else {
        return exact(best);
    };
    let mut choices: Vec<usize> = Vec::with_capacity(tensors.len());
    for front in fronts[1..].iter().rev() {
        choices.push(front[at].choice);
        at = front[at].from;
    }
    choices.reverse();
    let found = Allocation::of(tensors, choices);
    exact(if found.damage < best.damage { found } else { best })
}
