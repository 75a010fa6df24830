//! Agreement of two orders.

/// Spearman's correlation of paired values, `None` if one side is constant or there are fewer than two pairs.
///
/// ```text
/// ρ = Σ (r_i − r̄)(s_i − s̄) / √(Σ (r_i − r̄)² · Σ (s_i − s̄)²)
/// ```
///
/// `r` and `s` are the ranks of the values on either side; equal values share the mean of their ranks.
///
/// Source: Spearman 1904, "The proof and measurement of association between two things".
///
/// # Panics
///
/// If the sides differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "{} values cannot be paired with {}", x.len(), y.len());
    let (r, s) = (ranks(x), ranks(y));
    // Ties keep the sum of ranks, so both sides have this mean.
    let mean = (x.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum() };
    let spread = (product(&r, &r) * product(&s, &s)).sqrt();
    (spread > 0.0).then(|| product(&r, &s) / spread)
}

/// From 0; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &index in tied {
            ranks[index] = first as f64 + (tied.len() as f64 - 1.0) / 2.0;
        }
        first += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_correlations() {
        let up = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(spearman(&up, &[-3.0, 0.5, 7.0, 100.0]), Some(1.0));
        assert_eq!(spearman(&up, &[9.0, 3.0, 2.0, -1.0]), Some(-1.0));
        // 1 − 6 Σ d² / (n (n² − 1)) with d = 0, 1, −1, 0.
        assert!((spearman(&up, &[1.0, 3.0, 2.0, 4.0]).unwrap() - 0.8).abs() < 1e-12);
        // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / √(4.5 · 5).
        assert!((spearman(&[1.0, 2.0, 2.0, 3.0], &up).unwrap() - 0.9f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn nothing_to_correlate() {
        assert_eq!(spearman(&[], &[]), None);
        assert_eq!(spearman(&[1.0], &[2.0]), None);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }
}
