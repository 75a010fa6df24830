//! Predictions of a class against the class that is true.

use burn::tensor::Tensor;

use crate::host;

/// How many classes each row ranks before its label: 0 where the prediction is right, below `k` where the label is among
/// the `k` likeliest.
///
/// - `logits`: `[rows, classes]`, finite
/// - `labels`: one per row, each below `classes`
///
/// Of equal logits the one with the lower index is before the other.
///
/// # Panics
///
/// If there is not one label per row, or one is not below `classes`.
pub fn places(logits: Tensor<2>, labels: &[usize]) -> Vec<usize> {
    let [rows, classes] = logits.dims();
    assert_eq!(labels.len(), rows, "logits [{rows}, {classes}] need one label per row, found {}", labels.len());
    let place = |(row, &label): (&[f32], &usize)| {
        assert!(label < classes, "label {label} is not one of {classes} classes");
        let own = row[label];
        row.iter().enumerate().filter(|(class, logit)| **logit > own || (**logit == own && *class < label)).count()
    };
    host::floats(logits).chunks(classes.max(1)).zip(labels).map(place).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn known_places() {
        let rows = [[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]];
        let logits = Tensor::<2>::from_floats(rows, &Device::flex());
        assert_eq!(places(logits, &[0, 1, 2, 0, 2]), [0, 2, 1, 0, 2]);
    }

    #[test]
    #[should_panic(expected = "label 3 is not one of 3 classes")]
    fn labels_are_classes() {
        places(Tensor::<2>::from_floats([[3.0, 1.0, 2.0]], &Device::flex()), &[3]);
    }
}
