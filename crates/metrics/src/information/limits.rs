//! What is needed: the least information with which an error is possible.

/// The entropy of a coin, `h(p) = −p log2 p − (1 − p) log2(1 − p)`, in bits.
///
/// # Panics
///
/// If `p` is not between 0 and 1.
pub fn binary_entropy(p: f64) -> f64 {
    assert!((0.0..=1.0).contains(&p), "{p} is no probability");
    let term = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
    term(p) + term(1.0 - p)
}

/// The bits about one of `classes` without which no decoder has an error rate of `error` or less.
///
/// ```text
/// I_min = H(Y) − h(ε) − ε log2(K − 1)
/// ```
///
/// - `entropy`: `H(Y)` in bits, `log2 K` for equally frequent classes
///
/// Less information means more errors; as much does not mean as few. 0 where guessing the most frequent class may be enough, which is
/// from `ε = 1 − 1/K` on. A symmetric channel has exactly this much.
///
/// Source: Fano 1961, "Transmission of Information"; Cover and Thomas 2006, section 2.10 (`docs/references.md#fano`).
///
/// # Panics
///
/// If there are fewer than two classes, or `error` is not between 0 and 1.
pub fn fano_information(entropy: f64, classes: usize, error: f64) -> f64 {
    assert!(classes > 1, "an error needs two classes, found {classes}");
    let wrong = classes as f64 - 1.0;
    // The uncertainty that an error leaves grows up to this one.
    let error_that_counts = error.min(wrong / classes as f64);
    assert!((0.0..=1.0).contains(&error), "{error} is no probability");
    (entropy - binary_entropy(error_that_counts) - error_that_counts * wrong.log2()).max(0.0)
}

/// The error rate below which `information` bits rule out every decoder: the other side of [`fano_information`].
///
/// # Panics
///
/// If there are fewer than two classes.
pub fn fano_error(entropy: f64, classes: usize, information: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0 - 1.0 / classes as f64);
    if fano_information(entropy, classes, high) > information {
        return high;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if fano_information(entropy, classes, middle) > information { low = middle } else { high = middle }
    }
    if fano_information(entropy, classes, 0.0) <= information { 0.0 } else { high }
}

/// The bits that a normal variable takes for a mean squared error of `distortion`, `R(D) = max(0, log2(σ² / D) / 2)`.
///
/// Source: Shannon 1959, "Coding theorems for a discrete source with a fidelity criterion".
///
/// # Panics
///
/// If one of the two is not positive.
pub fn gaussian_rate(variance: f64, distortion: f64) -> f64 {
    assert!(variance > 0.0 && distortion > 0.0, "variance {variance} and distortion {distortion} must be positive");
    (0.5 * (variance / distortion).log2()).max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_the_range() {
        assert_eq!((binary_entropy(0.0), binary_entropy(0.5), binary_entropy(1.0)), (0.0, 1.0, 0.0));
        assert_eq!(fano_information(3.0, 8, 0.0), 3.0);
        for error in [0.875, 0.95, 1.0] {
            assert!(fano_information(3.0, 8, error) < 1e-12);
        }
        assert_eq!((fano_error(3.0, 8, 3.0), fano_error(3.0, 8, 9.0)), (0.0, 0.0));
        assert!((fano_error(3.0, 8, 0.0) - 0.875).abs() < 1e-6);
        assert_eq!((gaussian_rate(4.0, 1.0), gaussian_rate(1.0, 2.0)), (1.0, 0.0));
    }

    proptest! {
        #[test]
        fn error_and_information_are_inverse(classes in 2usize..2000, share in 0.01f64..0.95) {
            let entropy = (classes as f64).log2();
            let error = share * (1.0 - 1.0 / classes as f64);
            prop_assert!((fano_error(entropy, classes, fano_information(entropy, classes, error)) - error).abs() < 1e-9);
        }
    }
}
