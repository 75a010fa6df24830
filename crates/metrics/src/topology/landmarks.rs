//! Few points that stand for many.

use burn::tensor::{Int, Tensor};

use super::distances::{doubles, wide};

/// Points of a cloud chosen so that every point is near one of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Landmarks {
    /// Rows of the cloud, in the order of their choice.
    pub indices: Vec<usize>,
    /// How far the furthest point is from its nearest landmark.
    pub radius: f64,
}

impl Landmarks {
    /// Takes `first`, and then again and again the point that is furthest from all that were taken; the lowest of several.
    ///
    /// The cover radius is at most twice the smallest that as many points can have. The Rips diagrams of the landmarks are no
    /// further from those of the cloud than twice the radius, in bottleneck distance.
    ///
    /// - `x`: `[points, width]`, on whose device the distances are computed, `count` times `points · width` numbers
    ///
    /// Source: Gonzalez 1985; de Silva and Carlsson 2004 (`docs/references.md#landmarks`).
    ///
    /// # Panics
    ///
    /// If `count` is 0 or more than there are points, or `first` is not one of them.
    pub fn maxmin(x: Tensor<2>, count: usize, first: usize) -> Self {
        let [points, _] = x.dims();
        assert!(0 < count && count <= points, "{points} points have no {count} landmarks");
        assert!(first < points, "the first landmark is point {first} of {points}");
        let x = wide(x);
        let mut indices = vec![first];
        let mut nearest = to(&x, first);
        loop {
            let (furthest, radius) = nearest
                .iter()
                .enumerate()
                .fold((0, -1.0), |best, (index, &distance)| if distance > best.1 { (index, distance) } else { best });
            if indices.len() == count {
                return Self { indices, radius };
            }
            indices.push(furthest);
            nearest.iter_mut().zip(to(&x, furthest)).for_each(|(nearest, distance)| *nearest = nearest.min(distance));
        }
    }

    /// The cover radius of the same rows in another cloud of as many points.
    ///
    /// # Panics
    ///
    /// If a landmark is not a row of `x`.
    pub fn radius_in(&self, x: Tensor<2>) -> f64 {
        let [points, _] = x.dims();
        let x = wide(x);
        let mut nearest = vec![f64::INFINITY; points];
        for &index in &self.indices {
            assert!(index < points, "landmark {index} of {points} points");
            nearest.iter_mut().zip(to(&x, index)).for_each(|(nearest, distance)| *nearest = nearest.min(distance));
        }
        nearest.into_iter().fold(0.0, f64::max)
    }

    /// The landmarks' rows of `x`, `[landmarks, width]`.
    pub fn of(&self, x: Tensor<2>) -> Tensor<2> {
        let indices: Vec<i64> = self.indices.iter().map(|index| *index as i64).collect();
        let indices = Tensor::<1, Int>::from_ints(indices.as_slice(), &x.device());
        x.select(0, indices)
    }
}

/// The distances of all rows to one.
fn to(x: &Tensor<2>, row: usize) -> Vec<f64> {
    doubles((x.clone() - x.clone().narrow(0, row, 1)).square().sum_dim(1).sqrt())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_furthest_comes_next() {
        let x = Tensor::<2>::from_floats([[0.0], [1.0], [9.0], [4.0], [10.0]], &Device::flex());
        for (count, indices, radius) in
            [(1, vec![0], 10.0), (2, vec![0, 4], 4.0), (3, vec![0, 4, 3], 1.0), (5, vec![0, 4, 3, 1, 2], 0.0)]
        {
            let landmarks = Landmarks::maxmin(x.clone(), count, 0);
            assert_eq!(landmarks, Landmarks { indices, radius });
            assert_eq!(landmarks.radius_in(x.clone()), radius);
        }
        let landmarks = Landmarks { indices: vec![0, 4], radius: 4.0 };
        assert_eq!(doubles(landmarks.of(x.clone())), [0.0, 10.0]);
        assert_eq!(landmarks.radius_in(x * 2.0), 8.0);
    }

    #[test]
    #[should_panic(expected = "3 points have no 4 landmarks")]
    fn landmarks_are_points() {
        Landmarks::maxmin(Tensor::<2>::zeros([3, 2], &Device::flex()), 4, 0);
    }
}
