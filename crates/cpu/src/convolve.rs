//! A convolution: the image is unfolded at some positions of the window, multiplied, and written where its channels are.
//!
//! What a window sees at each position is a row of a matrix (im2col), and the convolution its product with the weight. Of that
//! matrix, which is larger than the image by the size of the kernel, only parts are made, which stay in a cache.

use std::borrow::Cow;
use std::ops::Range;

use quench_format::tiles::ROWS;
use rayon::prelude::*;

use crate::{Activations, Isa, Side, Weights, matmul};

/// How a convolution goes over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// `[height, width]` of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one position to the next.
    pub stride: [usize; 2],
    /// Zeros on either side.
    pub padding: [usize; 2],
    /// Pixels from one element of the kernel to the next.
    pub dilation: [usize; 2],
}

impl Window {
    /// A square kernel with stride 1 and neither padding nor dilation.
    pub fn square(kernel: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [1; 2], padding: [0; 2], dilation: [1; 2] }
    }

    /// `[height, width]` of the output for an image `[height, width]`.
    ///
    /// ```text
    /// ⌊(size + 2 · padding − dilation · (kernel − 1) − 1) / stride⌋ + 1
    /// ```
    ///
    /// # Panics
    ///
    /// If the padded image is smaller than the kernel.
    pub fn output(&self, image: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let size = image[axis] + 2 * self.padding[axis];
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            assert!(reach <= size, "an image {image:?} is smaller than the kernel of {self:?}");
            (size - reach) / self.stride[axis] + 1
        })
    }
}

/// Images, channel by channel.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// Row-major.
    pub values: &'a [f32],
    /// `[batch, channels, height, width]`.
    pub shape: [usize; 4],
}

/// `y = W ⋆ x + b`.
///
/// - `w`: `[out, channels · kernel height · kernel width]`
/// - `bias`: `[out]`
/// - returns `[batch, out, output height, output width]`
///
/// The numerics are those of [`matmul`]; the rows of a part are multiplied at once.
///
/// # Panics
///
/// If the shapes do not fit, or the padded images are smaller than the kernel.
pub fn convolve(
    w: &Weights<'_>,
    bias: &[f32],
    window: &Window,
    images: Images<'_>,
    activations: Activations,
    isa: Isa,
) -> Vec<f32> {
    let ([batch, channels, height, width], [out, columns]) = (images.shape, w.layout().shape);
    assert_eq!(columns, channels * window.kernel[0] * window.kernel[1], "{window:?} over images {:?}", images.shape);
    assert_eq!(
        (images.values.len(), bias.len()),
        (batch * channels * height * width, out),
        "images {:?}",
        images.shape
    );
    let output @ [lines, places] = window.output([height, width]);
    let positions = lines * places;
    let mut y = vec![0.0; batch * out * positions];
    let padded = Padded::new(images, window);
    let size = part_of(batch * positions, [out, columns]);
    let parts = (batch * positions).div_ceil(size);
    // For each part, the piece of every channel of every image that is in it.
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..parts).map(|_| Vec::with_capacity(out)).collect();
    for (channel, mut values) in y.chunks_exact_mut(positions).enumerate() {
        let mut at = channel / out * positions;
        while !values.is_empty() {
            let count = (size - at % size).min(values.len());
            let (piece, rest) = values.split_at_mut(count);
            pieces[at / size].push(piece);
            (values, at) = (rest, at + count);
        }
    }
    let run = |(part, mut pieces): (usize, Vec<&mut [f32]>)| {
        let range = part * size..((part + 1) * size).min(batch * positions);
        let count = range.len();
        let rows = padded.unfold(window, output, range);
        let mut product = &matmul(w, &rows, count, Side::Transposed, activations, isa)[..];
        for pieces in pieces.chunks_mut(out) {
            let (of_image, rest) = product.split_at(pieces[0].len() * out);
            for (channel, (piece, &bias)) in pieces.iter_mut().zip(bias).enumerate() {
                for (to, row) in piece.iter_mut().zip(of_image.chunks_exact(out)) {
                    *to = row[channel] + bias;
                }
            }
            product = rest;
        }
    };
    match parts {
        // The product is on all threads by itself.
        1 => pieces.into_iter().enumerate().for_each(run),
        _ => pieces.into_par_iter().enumerate().with_max_len(1).for_each(run),
    }
    y
}

/// Bytes of unfolded rows that stay in a second-level cache.
const CACHE: usize = 1 << 19;
/// Weights that are decoded in no time, for every part again.
const FEW: usize = 1 << 16;

/// Positions of a part, of `total`: each part decodes the whole matrix, and is multiplied on one thread.
fn part_of(total: usize, [out, columns]: [usize; 2]) -> usize {
    let least = if out * columns <= FEW { 4 * ROWS } else { 16 * ROWS };
    let most = (CACHE / (columns * size_of::<f32>()).max(1)).max(least);
    total.div_ceil(rayon::current_num_threads()).clamp(least, most).next_multiple_of(ROWS)
}

/// Images with zeros around them.
struct Padded<'a> {
    values: Cow<'a, [f32]>,
    /// `[channels, height, width]`.
    shape: [usize; 3],
}

impl<'a> Padded<'a> {
    fn new(images: Images<'a>, window: &Window) -> Self {
        let ([batch, channels, height, width], [above, left]) = (images.shape, window.padding);
        let shape @ [_, tall, wide] = [channels, height + 2 * above, width + 2 * left];
        if window.padding == [0, 0] {
            return Self { values: Cow::Borrowed(images.values), shape };
        }
        let mut values = vec![0.0; batch * channels * tall * wide];
        let planes = values.chunks_exact_mut(tall * wide).zip(images.values.chunks_exact(height * width));
        for (to, from) in planes {
            for (to, from) in to.chunks_exact_mut(wide).skip(above).zip(from.chunks_exact(width)) {
                to[left..][..width].copy_from_slice(from);
            }
        }
        Self { values: Cow::Owned(values), shape }
    }

    /// What the window sees at some positions, which are counted line by line through all images: `[positions, columns]`.
    fn unfold(&self, window: &Window, [lines, places]: [usize; 2], positions: Range<usize>) -> Vec<f32> {
        let [channels, height, width] = self.shape;
        let [tall, wide] = window.kernel;
        let columns = channels * tall * wide;
        let mut rows = vec![0.0; positions.len() * columns];
        let steps = Steps { plane: height * width, line: width * window.dilation[0], pixel: window.dilation[1], tall };
        for (row, position) in rows.chunks_exact_mut(columns).zip(positions) {
            let (image, line, place) = (position / (lines * places), position / places % lines, position % places);
            let first = image * channels * height * width + line * window.stride[0] * width + place * window.stride[1];
            let seen = &self.values[first..];
            match (wide, window.dilation[1]) {
                (1, _) => steps.copy::<1>(seen, row),
                (3, 1) => steps.copy::<3>(seen, row),
                (5, 1) => steps.copy::<5>(seen, row),
                (7, 1) => steps.copy::<7>(seen, row),
                _ => steps.pick(seen, row, wide),
            }
        }
        rows
    }
}

/// Numbers from one channel, line and pixel of a kernel to the next, and its height.
struct Steps {
    plane: usize,
    line: usize,
    pixel: usize,
    tall: usize,
}

impl Steps {
    /// The lines of a kernel of `K` neighbouring pixels, in all channels.
    #[inline]
    fn copy<const K: usize>(&self, seen: &[f32], row: &mut [f32]) {
        for (channel, to) in row.chunks_exact_mut(self.tall * K).enumerate() {
            for (line, to) in to.as_chunks_mut::<K>().0.iter_mut().enumerate() {
                to.copy_from_slice(&seen[channel * self.plane + line * self.line..][..K]);
            }
        }
    }

    /// The pixels of any kernel of this width.
    fn pick(&self, seen: &[f32], row: &mut [f32], wide: usize) {
        for (channel, to) in row.chunks_exact_mut(self.tall * wide).enumerate() {
            for (line, to) in to.chunks_exact_mut(wide).enumerate() {
                let first = channel * self.plane + line * self.line;
                for (pixel, to) in to.iter_mut().enumerate() {
                    *to = seen[first + pixel * self.pixel];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quench_format::tiles::Tiles;
    use quench_format::{Packed, Scales};

    use super::*;
    use crate::Levels;

    /// By its definition, in f64.
    fn expected(w: &[f32], out: usize, bias: &[f32], window: &Window, images: Images<'_>) -> Vec<f64> {
        let [batch, channels, height, width] = images.shape;
        let [lines, places] = window.output([height, width]);
        let [tall, wide] = window.kernel;
        let mut y = Vec::new();
        for (image, o) in (0..batch).flat_map(|image| (0..out).map(move |o| (image, o))) {
            for (line, place) in (0..lines).flat_map(|line| (0..places).map(move |place| (line, place))) {
                let mut sum = f64::from(bias[o]);
                for (index, &w) in w[o * channels * tall * wide..][..channels * tall * wide].iter().enumerate() {
                    let (channel, i, j) = (index / (tall * wide), index / wide % tall, index % wide);
                    let y = (line * window.stride[0] + i * window.dilation[0]).checked_sub(window.padding[0]);
                    let x = (place * window.stride[1] + j * window.dilation[1]).checked_sub(window.padding[1]);
                    if let (Some(y), Some(x)) = (y.filter(|&y| y < height), x.filter(|&x| x < width)) {
                        let at = ((image * channels + channel) * height + y) * width + x;
                        sum += f64::from(w) * f64::from(images.values[at]);
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    #[test]
    fn every_window_gives_the_sums_of_its_definition() {
        let window = |kernel, stride, padding, dilation| Window { kernel, stride, padding, dilation };
        let cases = [
            (window([1, 1], [1, 1], [0, 0], [1, 1]), [3, 5, 4, 7], 6),
            (window([1, 1], [2, 2], [0, 0], [1, 1]), [1, 40, 5, 6], 17),
            (window([3, 3], [1, 1], [1, 1], [1, 1]), [2, 3, 9, 8], 5),
            // Several parts, which end within an image.
            (window([3, 3], [1, 1], [1, 1], [1, 1]), [3, 4, 19, 17], 20),
            (window([3, 3], [2, 2], [1, 1], [1, 1]), [1, 2, 30, 30], 16),
            (window([7, 7], [2, 2], [3, 3], [1, 1]), [1, 3, 20, 22], 3),
            (window([5, 5], [1, 3], [2, 0], [1, 1]), [1, 1, 6, 8], 1),
            (window([3, 2], [2, 3], [0, 2], [2, 3]), [2, 2, 7, 9], 4),
        ];
        for (window, shape, out) in cases {
            let columns = shape[1] * window.kernel[0] * window.kernel[1];
            let codes: Vec<u16> = (0..out * columns).map(|i| (i * 7 % 31) as u16).collect();
            let scales = Scales::Float((0..out).map(|row| 0.01 + row as f32 / 512.0).collect());
            let scheme = "int5/row/f32".parse().expect("a scheme");
            let packed = Packed::from_codes(scheme, [out, columns], &codes, scales, None, None).expect("a matrix");
            let tiles = Tiles::new(&packed);
            let w = Weights::new(tiles.layout, &tiles.codes, &tiles.scales, Levels::Signed, None);
            let bias: Vec<f32> = (0..out).map(|row| row as f32 - 2.0).collect();
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let images = Images { values: &values, shape };
            let expected = expected(&packed.decode(), out, &bias, &window, images);
            for isa in Isa::all() {
                for (activations, bound) in [(Activations::F32, 1e-5), (Activations::Int8, 2e-2)] {
                    let found = convolve(&w, &bias, &window, images, activations, isa);
                    assert_eq!(found.len(), expected.len(), "{window:?}");
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error <= bound * expected.abs().max(1.0), "{isa} {activations} {window:?}: {error}");
                    }
                }
            }
        }
    }
}
