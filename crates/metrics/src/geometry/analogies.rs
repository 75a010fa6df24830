//! Analogies: `a` is to `b` as `d` is to `c`.

use burn::tensor::{Int, Tensor, TensorData};

use crate::vectors::Distances;
use crate::{cosines, host};

/// How well differences of vectors carry over: `a − b + c` should be nearest to `d`.
#[derive(Clone, Debug, PartialEq)]
pub struct Analogies {
    /// Of each analogy, how many points other than `a`, `b` and `c` are nearer to `a − b + c` than `d` is: 0 where it is solved. Of points
    /// at the same distance those with the lower index are nearer.
    pub places: Vec<usize>,
    /// Of each analogy, the cosine of `a − b` with `d − c`: 1 for a parallelogram, NaN where one side has length 0.
    pub parallelism: Vec<f32>,
    points: usize,
}

impl Analogies {
    /// The analogies `[a, b, c, d]`, by rows of `x`, `[n, width]`.
    ///
    /// Source: Mikolov, Yih, Zweig 2013, "Linguistic regularities in continuous space word representations"
    /// (`docs/references.md#analogies`).
    ///
    /// # Panics
    ///
    /// If an index is not below `n`, or `d` is one of the others.
    pub fn of(x: Tensor<2>, analogies: &[[usize; 4]]) -> Self {
        let [n, _] = x.dims();
        for analogy in analogies {
            let [a, b, c, d] = *analogy;
            assert!(
                analogy.iter().all(|index| *index < n) && ![a, b, c].contains(&d),
                "{analogy:?} is no analogy of {n} points"
            );
        }
        let distances = Distances::of(x.clone());
        // At most 2^23 distances at a time.
        let solved = analogies.chunks(((1 << 23) / n.max(1)).max(1)).flat_map(|some| {
            let corner = |place: usize| {
                let indices: Vec<i32> = some.iter().map(|analogy| analogy[place] as i32).collect();
                let indices = TensorData::new(indices, [some.len()]);
                x.clone().select(0, Tensor::<1, Int>::from_data(indices, &x.device()))
            };
            let [a, b, c, d] = [0, 1, 2, 3].map(corner);
            let parallelism = cosines(a.clone() - b.clone(), d - c.clone());
            let found = distances.from(a - b + c);
            let places = some.iter().zip(found.chunks(n)).map(|(analogy, distances)| place(distances, *analogy));
            places.zip(parallelism).collect::<Vec<_>>()
        });
        let (places, parallelism) = solved.unzip();
        Self { places, parallelism, points: n }
    }

    /// The share that is solved; `None` of no analogies.
    pub fn accuracy(&self) -> Option<f64> {
        let solved = self.places.iter().filter(|place| **place == 0).count();
        (!self.places.is_empty()).then(|| solved as f64 / self.places.len() as f64)
    }

    /// The accuracy of a guess among the points that are not in the question, `1 / (n − 3)`.
    pub fn chance(&self) -> f64 {
        1.0 / (self.points as f64 - 3.0)
    }
}

fn place(distances: &[f32], [a, b, c, d]: [usize; 4]) -> usize {
    let own = distances[d];
    let nearer = |(index, distance): &(usize, &f32)| {
        ![a, b, c, d].contains(index) && (**distance < own || (**distance == own && *index < d))
    };
    distances.iter().enumerate().filter(nearer).count()
}

/// The corners of a `size × size × size` lattice along random directions of `width` numbers, and its analogies: for the checks.
pub(crate) fn lattice(
    size: usize,
    width: usize,
    seed: u64,
    device: &burn::tensor::Device,
) -> (Tensor<2>, Vec<[usize; 4]>) {
    let points = size.pow(3);
    let places = (0..points).flat_map(|i| [i / (size * size), i / size % size, i % size].map(|x| x as f32));
    let x = host::matrix(places.collect(), 3, device).matmul(host::gaussian(3, width, seed, device));
    // From one point to the next in one direction, here and elsewhere.
    let step = size * size;
    let analogies = (0..size).flat_map(|i| (0..size).map(move |j| [step + i * size, i * size, j, step + j]));
    let distinct = |[a, b, c, d]: &[usize; 4]| ![a, b, c].contains(&d) && b != c;
    (x, analogies.filter(distinct).collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_parallelogram_by_hand() {
        let device = Device::flex();
        let x = host::matrix(vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.5, 1.0, 0.9, 5.0, 5.0], 2, &device);
        let found = Analogies::of(x, &[[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]]);
        assert_eq!(found.places, [1, 0, 2]);
        assert_eq!(found.accuracy(), Some(1.0 / 3.0));
        assert_eq!(found.chance(), 1.0 / 3.0);
        for (found, slope) in found.parallelism.iter().zip([0.5f32, -0.1]) {
            assert!((found - 1.0 / (1.0 + slope * slope).sqrt()).abs() < 1e-6, "{found}");
        }
    }

    #[test]
    fn nothing_is_no_analogy() {
        let x = host::gaussian(5, 2, 1, &Device::flex());
        assert_eq!(Analogies::of(x, &[]).accuracy(), None);
    }

    #[test]
    #[should_panic(expected = "[0, 1, 2, 2] is no analogy of 5 points")]
    fn the_answer_is_not_in_the_question() {
        Analogies::of(host::gaussian(5, 2, 1, &Device::flex()), &[[0, 1, 2, 2]]);
    }
}
