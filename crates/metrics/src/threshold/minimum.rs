//! The lowest point of a function of two numbers.

/// Nelder and Mead's simplex from `start`, whose other corners are `reach` away, until it is smaller than 1e-7 of that or after 400 steps.
///
/// Source: Nelder and Mead 1965, with the usual coefficients 1, 2, 1/2, 1/2.
pub(super) fn minimum(start: [f64; 2], reach: [f64; 2], f: impl Fn([f64; 2]) -> f64) -> [f64; 2] {
    let valued = |at: [f64; 2]| (f(at), at);
    let mut corners = [start, [start[0] + reach[0], start[1]], [start[0], start[1] + reach[1]]].map(valued);
    for _ in 0..400 {
        corners.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let [(best, low), (middle, second), (worst, high)] = corners;
        let size = [0, 1].map(|axis| ((high[axis] - low[axis]).abs() + (second[axis] - low[axis]).abs()) / reach[axis]);
        if size[0].max(size[1]) < 1e-7 {
            break;
        }
        // Along the line from the worst corner through the middle of the others.
        let along = |share: f64| {
            valued([0, 1].map(|axis| {
                let center = (low[axis] + second[axis]) / 2.0;
                center + share * (high[axis] - center)
            }))
        };
        let reflected = along(-1.0);
        corners[2] = if reflected.0 < best {
            let expanded = along(-2.0);
            if expanded.0 < reflected.0 { expanded } else { reflected }
        } else if reflected.0 < middle {
            reflected
        } else {
            let contracted = along(if reflected.0 < worst { -0.5 } else { 0.5 });
            if contracted.0 < reflected.0.min(worst) {
                contracted
            } else {
                corners[1] = valued([0, 1].map(|axis| (low[axis] + second[axis]) / 2.0));
                valued([0, 1].map(|axis| (low[axis] + high[axis]) / 2.0))
            }
        };
    }
    corners.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    corners[0].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_of_a_bent_valley() {
        // Rosenbrock's function.
        let found = minimum([-1.2, 1.0], [0.5, 0.5], |[x, y]| (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2));
        assert!((found[0] - 1.0).abs() < 1e-5 && (found[1] - 1.0).abs() < 1e-5, "{found:?}");
    }
}
