//! A dense matrix times a few rows: what stays unquantized beside packed layers.

use half::{bf16, f16};
use quench_format::tiles::ROWS;

use crate::Isa;
use crate::simd::{Job, Simd};
use crate::threads::{Columns, share};

/// Rows up to which [`dense`] reads the matrix once and is limited by memory; a blocked product is better beyond.
pub const DENSE_ROWS: usize = 16;

/// A dense matrix `[out, in]`, row-major, as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Dense<'a> {
    /// In f32.
    F32(&'a [f32]),
    /// In f16.
    F16(&'a [f16]),
    /// In bf16.
    BF16(&'a [bf16]),
}

/// `x · Wᵀ` in f32 for a dense matrix, for few rows.
///
/// - `w`: `[out, in]`
/// - `x`: `[rows, in]`
/// - returns `[rows, out]`; each element is the same for any number of rows and threads
///
/// # Panics
///
/// If a length is wrong.
pub fn dense(w: Dense<'_>, shape: [usize; 2], x: &[f32], rows: usize, isa: Isa) -> Vec<f32> {
    match w {
        Dense::F32(w) => multiply(w, shape, x, rows, isa),
        Dense::F16(w) => multiply(w, shape, x, rows, isa),
        Dense::BF16(w) => multiply(w, shape, x, rows, isa),
    }
}

fn multiply<E: Element>(w: &[E], [out, columns]: [usize; 2], x: &[f32], rows: usize, isa: Isa) -> Vec<f32> {
    assert_eq!(w.len(), out * columns, "elements of a matrix [{out}, {columns}]");
    assert_eq!(x.len(), rows * columns, "x is not {rows} rows of {columns}, for a matrix [{out}, {columns}]");
    let mut y = vec![0.0; rows * out];
    if !y.is_empty() {
        isa.run(Multiply { w, columns, x, y: &mut y, out });
    }
    y
}

/// What a matrix is made of.
trait Element: Copy + Sync {
    fn load<S: Simd>(simd: S, values: &[Self; ROWS]) -> S::Floats;
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[f32; ROWS]) -> S::Floats {
        simd.load(values)
    }

    fn value(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[f16; ROWS]) -> S::Floats {
        simd.f16s(values)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[bf16; ROWS]) -> S::Floats {
        simd.bf16s(values)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

struct Multiply<'a, E> {
    w: &'a [E],
    columns: usize,
    x: &'a [f32],
    y: &'a mut [f32],
    out: usize,
}

impl<E: Element> Job for Multiply<'_, E> {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { w, columns, x, y, out } = self;
        share(Columns { out, width: 1, k: columns, most: out, short: true }, y, |range, to| {
            // So few rows of the matrix stay in a cache while the rows of x go by.
            for first in range.clone().step_by(R) {
                let n = R.min(range.end - first);
                let w: [_; R] = std::array::from_fn(|r| &w[(first + r.min(n - 1)) * columns..][..columns]);
                for (p, x) in x.chunks(M * columns).enumerate() {
                    let m = x.len() / columns;
                    let x: [_; M] = std::array::from_fn(|i| &x[i.min(m - 1) * columns..][..columns]);
                    let sums = match m {
                        1 => simd.vectorize(Dots { w, x: [x[0]] }).map(|[sum]| [sum; M]),
                        _ => simd.vectorize(Dots { w, x }),
                    };
                    for (i, to) in to[p * M..][..m].iter_mut().enumerate() {
                        for (r, sums) in sums[..n].iter().enumerate() {
                            to[first - range.start + r] = sums[i];
                        }
                    }
                }
            }
        });
    }
}

/// Rows of the matrix at a time.
const R: usize = 4;
/// Rows of the input at a time.
const M: usize = 4;

/// All dot products of some rows with some others.
struct Dots<'a, E, const R: usize, const M: usize> {
    w: [&'a [E]; R],
    x: [&'a [f32]; M],
}

impl<E: Element, const R: usize, const M: usize> Job for Dots<'_, E, R, M> {
    type Output = [[f32; M]; R];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [[f32; M]; R] {
        let mut sums = [[simd.splat(0.0); M]; R];
        let (mut w, mut x) = ([&[][..]; R], [&[][..]; M]);
        let whole = self.w[0].len() / ROWS;
        for r in 0..R {
            w[r] = &self.w[r].as_chunks::<ROWS>().0[..whole];
        }
        for i in 0..M {
            x[i] = &self.x[i].as_chunks::<ROWS>().0[..whole];
        }
        for k in 0..whole {
            let mut rows = [simd.splat(0.0); M];
            for i in 0..M {
                rows[i] = simd.load(&x[i][k]);
            }
            for r in 0..R {
                simd.prefetch(w[r][k].as_ptr().wrapping_byte_add(1024).cast());
                let w = E::load(simd, &w[r][k]);
                for i in 0..M {
                    sums[r][i] = simd.mul_add(w, rows[i], sums[r][i]);
                }
            }
        }
        let mut dots = [[0.0; M]; R];
        for r in 0..R {
            for i in 0..M {
                let mut lanes = [0.0; ROWS];
                simd.store(sums[r][i], &mut lanes);
                let rest = self.w[r].as_chunks::<ROWS>().1.iter().zip(self.x[i].as_chunks::<ROWS>().1);
                dots[r][i] = lanes.iter().sum::<f32>() + rest.map(|(w, x)| w.value() * x).sum::<f32>();
            }
        }
        dots
    }
}
