//! Channels whose information is known.

/// The bits that normal variables with this correlation share, `−log2(1 − ρ²) / 2`, in each pair of coordinates.
pub fn gaussian_information(correlation: f64) -> f64 {
    -0.5 * (1.0 - correlation * correlation).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_correlations() {
        assert!((gaussian_information(-0.75f64.sqrt()) - 1.0).abs() < 1e-12 && gaussian_information(0.0) == 0.0);
    }
}
