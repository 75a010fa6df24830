//! How far two persistence diagrams are apart.

use std::collections::VecDeque;

use super::Diagram;

/// Up to how many features of a diagram [`wasserstein`] is computed: its time grows with the cube.
pub const WASSERSTEIN_LIMIT: usize = 300;

/// The bottleneck distance: how far the furthest feature moves when one diagram becomes the other, if they move as little as they can.
///
/// ```text
/// d_B(P, Q) = min over matchings of max |p − q|_∞,   where a feature may be matched with the diagonal: |p − Δ|_∞ = (death − birth) / 2
/// ```
///
/// Infinite if there are not as many essential features on both sides. A binary search over the distances that there are; for each it
/// is asked whether all features too long for the diagonal have partners, first on the one side, then on the other. Two matchings
/// that cover a set each have one in their union that covers both (Mendelsohn and Dulmage 1958), so the diagonal needs no nodes.
///
/// Source: Efrat, Itai, Katz 2001; Hopcroft and Karp 1973 (`docs/references.md#diagram-distances`).
///
/// # Panics
///
/// If the diagrams are of different dimensions.
pub fn bottleneck(a: &Diagram, b: &Diagram) -> f64 {
    let essential = essential(a, b).fold(0.0, f64::max);
    let halves = |diagram: &Diagram| diagram.persistences().map(|length| length / 2.0).collect::<Vec<_>>();
    let apart: Vec<f64> = a.pairs.iter().flat_map(|p| b.pairs.iter().map(|q| apart(p, q))).collect();
    let mut candidates: Vec<f64> = [halves(a), halves(b), apart.clone(), vec![essential]].concat();
    candidates.retain(|distance| *distance >= essential);
    candidates.sort_unstable_by(f64::total_cmp);
    candidates.dedup();
    let columns = b.pairs.len();
    let feasible = |&distance: &f64| {
        let (long, others) = (a.longer_than(2.0 * distance).len(), b.longer_than(2.0 * distance).len());
        let near = |row: usize, column: usize| apart[row * columns + column] <= distance;
        covers(long, columns, near) && covers(others, a.pairs.len(), |row, column| near(column, row))
    };
    // Every longer distance than a feasible one is feasible, and the longest is: all features are as near to the diagonal.
    let place = candidates.partition_point(|distance| !feasible(distance));
    candidates.get(place).copied().unwrap_or(f64::INFINITY)
}

/// The Wasserstein distance of order `p`: as [`bottleneck`], with the root of the sum of the powers in the place of the largest.
///
/// ```text
/// W_p(P, Q) = ( min over matchings of Σ |p − q|_∞ ^ p )^(1/p)
/// ```
///
/// `None` if a diagram has more than [`WASSERSTEIN_LIMIT`] features that die; infinite if there are not as many essential features on both
/// sides. By the Hungarian method.
///
/// Source: Kuhn 1955 (`docs/references.md#diagram-distances`).
///
/// # Panics
///
/// If the diagrams are of different dimensions, or `p` is below 1.
pub fn wasserstein(a: &Diagram, b: &Diagram, p: f64) -> Option<f64> {
    assert!(p >= 1.0, "the order of a Wasserstein distance is at least 1, found {p}");
    // The smaller one in the rows: their number is squared.
    let (a, b) = if a.pairs.len() > b.pairs.len() { (b, a) } else { (a, b) };
    if b.pairs.len() > WASSERSTEIN_LIMIT {
        return None;
    }
    let essential: f64 = essential(a, b).map(|distance| distance.powf(p)).sum();
    let diagonal = |(birth, death): &(f64, f64)| ((death - birth) / 2.0).powf(p);
    // All of `b` goes to the diagonal, but for those that `a` takes away from there; behind them one place on the diagonal for each row.
    let columns = b.pairs.len() + a.pairs.len();
    let cost = |row: usize, column: usize| match (&a.pairs[row], b.pairs.get(column)) {
        (p0, Some(q)) => apart(p0, q).powf(p) - diagonal(q),
        (p0, None) => diagonal(p0),
    };
    let to_diagonal: f64 = b.pairs.iter().map(diagonal).sum();
    let total = essential + to_diagonal + assignment(a.pairs.len(), columns, cost);
    // Rounding may leave a sum of differences below 0.
    Some(total.max(0.0).powf(1.0 / p))
}

/// The larger of the differences of births and of deaths.
fn apart(p: &(f64, f64), q: &(f64, f64)) -> f64 {
    (p.0 - q.0).abs().max((p.1 - q.1).abs())
}

/// How far each essential feature moves: in order is best on a line. Infinite where one has no partner.
fn essential(a: &Diagram, b: &Diagram) -> impl Iterator<Item = f64> {
    assert_eq!(
        a.dimension, b.dimension,
        "diagrams of dimensions {} and {} cannot be compared",
        a.dimension, b.dimension
    );
    let unmatched = (a.essential.len() != b.essential.len()).then_some(f64::INFINITY);
    a.essential.iter().zip(&b.essential).map(|(a, b)| (a - b).abs()).chain(unmatched)
}

/// Whether each of `rows` rows can have a column of its own that it is `near` to, by the method of Hopcroft and Karp.
fn covers(rows: usize, columns: usize, near: impl Fn(usize, usize) -> bool) -> bool {
    const FREE: usize = usize::MAX;
    let neighbours: Vec<Vec<usize>> =
        (0..rows).map(|row| (0..columns).filter(|column| near(row, *column)).collect()).collect();
    let mut partners = vec![FREE; columns];
    let mut matched = vec![false; rows];
    loop {
        // Rows by the length of the shortest alternating path from a free row.
        let mut levels = vec![FREE; rows];
        let mut queue: VecDeque<usize> = (0..rows).filter(|row| !matched[*row]).collect();
        if queue.is_empty() {
            return true;
        }
        queue.iter().for_each(|row| levels[*row] = 0);
        let mut reaches_free = false;
        while let Some(row) = queue.pop_front() {
            for &column in &neighbours[row] {
                match partners[column] {
                    FREE => reaches_free = true,
                    next if levels[next] == FREE => {
                        levels[next] = levels[row] + 1;
                        queue.push_back(next);
                    }
                    _ => {}
                }
            }
        }
        if !reaches_free {
            return false;
        }
        let mut tried = vec![0; rows];
        let free: Vec<usize> = (0..rows).filter(|row| !matched[*row]).collect();
        for start in free {
            // Depth first without recursion: a path may be as long as the diagrams are large.
            let mut path = vec![start];
            while let Some(&row) = path.last() {
                let Some(&column) = neighbours[row].get(tried[row]) else {
                    path.pop();
                    if let Some(&before) = path.last() {
                        tried[before] += 1;
                    }
                    continue;
                };
                match partners[column] {
                    FREE => {
                        for row in path.drain(..) {
                            partners[neighbours[row][tried[row]]] = row;
                            // The edge is used: no later path of this round may come by here.
                            tried[row] = neighbours[row].len();
                        }
                        matched[start] = true;
                    }
                    next if levels[next] == levels[row] + 1 => path.push(next),
                    _ => tried[row] += 1,
                }
            }
        }
    }
}

/// The least sum of `cost(row, column)` that gives each of `rows` rows a column of its own, of at least as many columns.
///
/// Shortest augmenting paths with potentials, `O(rows² columns)`.
fn assignment(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64) -> f64 {
    const FREE: usize = usize::MAX;
    let costs: Vec<f64> =
        (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| cost(r, c)).collect();
    let (mut of_rows, mut of_columns) = (vec![0.0; rows], vec![0.0; columns]);
    let mut owners = vec![FREE; columns];
    for start in 0..rows {
        let mut shortest = vec![f64::INFINITY; columns];
        let mut previous = vec![FREE; columns];
        let mut visited = vec![false; columns];
        let (mut row, mut last) = (start, FREE);
        loop {
            let (mut next, mut step) = (FREE, f64::INFINITY);
            for column in (0..columns).filter(|column| !visited[*column]) {
                let reduced = costs[row * columns + column] - of_rows[row] - of_columns[column];
                if reduced < shortest[column] {
                    shortest[column] = reduced;
                    previous[column] = last;
                }
                if shortest[column] < step {
                    (next, step) = (column, shortest[column]);
                }
            }
            of_rows[start] += step;
            for column in 0..columns {
                if visited[column] {
                    of_rows[owners[column]] += step;
                    of_columns[column] -= step;
                } else {
                    shortest[column] -= step;
                }
            }
            visited[next] = true;
            last = next;
            if owners[next] == FREE {
                break;
            }
            row = owners[next];
        }
        while previous[last] != FREE {
            owners[last] = owners[previous[last]];
            last = previous[last];
        }
        owners[last] = start;
    }
    owners.iter().enumerate().filter(|(_, row)| **row != FREE).map(|(column, row)| costs[row * columns + column]).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn diagram(pairs: &[(f64, f64)]) -> Diagram {
        Diagram::new(1, pairs.iter().copied())
    }

    #[test]
    fn known_distances() {
        let a = diagram(&[(0.0, 4.0), (1.0, 2.0)]);
        assert_eq!((bottleneck(&a, &a), wasserstein(&a, &a, 2.0)), (0.0, Some(0.0)));
        let nothing = diagram(&[]);
        assert_eq!((bottleneck(&a, &nothing), wasserstein(&a, &nothing, 1.0)), (2.0, Some(2.5)));
        assert_eq!(wasserstein(&nothing, &a, 2.0), Some(4.25f64.sqrt()));
        assert_eq!(bottleneck(&nothing, &nothing), 0.0);
        // The short one goes to the diagonal, the long one moves by 0.25.
        let b = diagram(&[(0.25, 4.125)]);
        assert_eq!((bottleneck(&a, &b), wasserstein(&a, &b, 1.0)), (0.5, Some(0.75)));
    }

    #[test]
    fn essential_features_have_only_each_other() {
        let endless = |births: &[f64]| Diagram::new(0, births.iter().map(|birth| (*birth, f64::INFINITY)));
        assert_eq!(bottleneck(&endless(&[0.0, 5.0]), &endless(&[4.0, 1.0])), 1.0);
        assert_eq!(wasserstein(&endless(&[0.0, 5.0]), &endless(&[4.0, 1.0]), 1.0), Some(2.0));
        assert_eq!(bottleneck(&endless(&[0.0]), &endless(&[])), f64::INFINITY);
        assert_eq!(wasserstein(&endless(&[0.0]), &endless(&[]), 2.0), Some(f64::INFINITY));
    }

    #[test]
    fn too_large_for_the_hungarian_method() {
        let large = diagram(&vec![(0.0, 1.0); WASSERSTEIN_LIMIT + 1]);
        assert_eq!(wasserstein(&large, &diagram(&[]), 1.0), None);
        assert_eq!(bottleneck(&large, &diagram(&[])), 0.5);
    }

    /// The smallest over all matchings, by trying them: `used` are the features of `b` that have a partner.
    fn by_trial(a: &[(f64, f64)], b: &[(f64, f64)], used: u32, add: fn(f64, f64) -> f64, power: f64) -> f64 {
        let half = |(birth, death): &(f64, f64)| ((death - birth) / 2.0).powf(power);
        let Some((first, rest)) = a.split_first() else {
            return b.iter().enumerate().filter(|(at, _)| used >> at & 1 == 0).map(|(_, q)| half(q)).fold(0.0, add);
        };
        let alone = add(half(first), by_trial(rest, b, used, add, power));
        let partners = (0..b.len()).filter(|at| used >> at & 1 == 0);
        partners
            .map(|at| add(apart(first, &b[at]).powf(power), by_trial(rest, b, used | 1 << at, add, power)))
            .fold(alone, f64::min)
    }

    fn features() -> impl Strategy<Value = Vec<(f64, f64)>> {
        let feature =
            (0u8..20, 1u8..20).prop_map(|(birth, length)| (f64::from(birth), f64::from(birth) + f64::from(length)));
        prop::collection::vec(feature, 0..6)
    }

    proptest! {
        #[test]
        fn agrees_with_all_matchings(a in features(), b in features()) {
            let (p, q) = (diagram(&a), diagram(&b));
            prop_assert_eq!(bottleneck(&p, &q), by_trial(&a, &b, 0, f64::max, 1.0));
            for power in [1.0, 2.0] {
                let expected = by_trial(&a, &b, 0, |a, b| a + b, power).powf(1.0 / power);
                prop_assert!((wasserstein(&p, &q, power).unwrap() - expected).abs() < 1e-9);
            }
        }

        /// Symmetric, with the triangle inequality, and no further than the distance of order 1.
        #[test]
        fn are_distances(a in features(), b in features(), c in features()) {
            let (a, b, c) = (diagram(&a), diagram(&b), diagram(&c));
            prop_assert_eq!(bottleneck(&a, &b), bottleneck(&b, &a));
            prop_assert!(bottleneck(&a, &c) <= bottleneck(&a, &b) + bottleneck(&b, &c));
            prop_assert!(bottleneck(&a, &b) <= wasserstein(&a, &b, 1.0).unwrap() + 1e-9);
        }
    }
}
