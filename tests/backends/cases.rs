//! What the suite runs on: a table of named cases, and cases drawn at random.

use std::fmt;

use proptest::prelude::*;
use quench::format::{Code, Offsets, Packed, Scale, Scales, Scheme};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the columns are stored.
#[derive(Clone, Copy, Debug)]
pub enum Columns {
    Natural,
    Permuted,
}

/// A matrix `[out, in]` and the rows of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub scheme: Scheme,
    pub shape: [usize; 2],
    pub rows: usize,
    pub columns: Columns,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, shape, rows, columns } = self;
        write!(f, "{scheme} {shape:?} rows {rows} {columns:?}")
    }
}

/// Every width of every code, every kind of group and scale, and shapes that are multiples of nothing.
pub fn table() -> Vec<Case> {
    use Columns::{Natural, Permuted};
    let mut cases = Vec::new();
    let mut add = |scheme: &str, shape, rows, columns| {
        let scheme = scheme.parse().unwrap_or_else(|error| panic!("{scheme}: {error}"));
        cases.push(Case { scheme, shape, rows, columns });
    };
    for bits in 1..=16 {
        add(&format!("int{bits}/32/f32"), [5, 96], 3, Natural);
        add(&format!("uint{bits}/13/f16"), [7, 67], 2, Permuted);
    }
    for bits in [2, 3, 4, 5, 8, 9, 12, 16] {
        add(&format!("slog{bits}:mu8/16/bf16"), [6, 50], 4, Natural);
    }
    for code in ["nf4", "e2m1", "e4m3"] {
        add(&format!("{code}/16/f16"), [9, 64], 5, Natural);
        add(&format!("{code}/row/f32"), [3, 41], 1, Permuted);
    }
    for code in ["int4", "uint3", "nf4"] {
        for group in ["tensor", "row", "1", "7", "31", "64", "100000"] {
            add(&format!("{code}/{group}/f32"), [11, 97], 6, Natural);
        }
        for scale in ["uint6/4:f16", "int8/row:f32", "e4m3/tensor:f32", "nf4/3:bf16"] {
            add(&format!("{code}/8/{scale}"), [10, 61], 3, Natural);
            add(&format!("{code}/tensor/{scale}"), [4, 19], 2, Permuted);
        }
        for shape in [[1, 1], [1, 33], [33, 1], [2, 31], [17, 129], [64, 32]] {
            add(&format!("{code}/32/f16"), shape, 1, Natural);
            add(&format!("{code}/5/f16"), shape, 7, Permuted);
        }
    }
    // Minimums, on devices that serve them.
    for bits in 1..=12 {
        add(&format!("uint{bits}/13/f16/min:f16"), [7, 67], [1, 3, 17][bits % 3], Permuted);
        add(&format!("int{bits}/32/bf16/min:f32"), [35, 96], [2, 5, 16][bits % 3], Natural);
    }
    for (scheme, rows) in [
        ("uint2/16/uint4/16:f16/min:uint4/16:f16", 1),
        ("uint4/32/uint6/8:f16/min:uint6/8:f16", 1),
        ("uint5/32/uint6/8:f16/min:uint6/8:f16", 12),
        ("uint4/row/f16/min:f16", 2),
        ("uint4/tensor/f16/min:f16", 4),
        ("uint4/8/f16/min:f16", 9),
        ("uint8/128/f16/min:f16", 300),
    ] {
        add(scheme, [40, 512], rows, Natural);
    }
    // Kernels of their own for every number of rows, up to 16; groups of 8, 4, 2 steps and of one.
    for rows in 1..=17 {
        let group = 4 << (rows % 5);
        add(&format!("int4/{group}/f16"), [40, 200], rows, if rows % 2 == 0 { Natural } else { Permuted });
    }
    for (code, group, scale) in [("int6", 64, "bf16"), ("int8", 16, "f16"), ("uint2", 8, "bf16"), ("e4m3", 32, "bf16")]
    {
        add(&format!("{code}/{group}/{scale}"), [50, 256], 1, Natural);
        add(&format!("{code}/{group}/{scale}"), [35, 320], 12, Natural);
    }
    // Few rows of many columns, which kernels split.
    add("int4/128/f16", [20, 9000], 1, Natural);
    add("nf4/64/bf16", [1, 8192], 5, Permuted);
    add("uint5/32/f32", [33, 4100], 16, Natural);
    // More rows of x than one block of a product, and more than are worth decoding anew for each.
    add("int3/24/f16", [70, 41], 130, Permuted);
    add("uint4/7/bf16", [130, 66], 65, Natural);
    add("int4/32/f16", [67, 96], 260, Permuted);
    // Above the sizes from which backends tile and share among threads.
    add("int4/128/f16", [300, 515], 70, Natural);
    add("uint5/64/f16", [259, 384], 33, Permuted);
    // Above the size that a host product decodes at a time.
    add("int4/128/f16", [1100, 1000], 3, Permuted);
    add("uint3/100/f32", [2100, 513], 2, Natural);
    cases
}

/// Cases for what does not depend on the scheme.
pub fn few() -> Vec<Case> {
    table().into_iter().step_by(11).collect()
}

/// Any scheme, any shape: some of both are bound to be foolish.
pub fn any_case() -> impl Strategy<Value = Case> {
    let code = prop_oneof![
        (1..=16u32).prop_map(|bits| format!("int{bits}")),
        (1..=16u32).prop_map(|bits| format!("uint{bits}")),
        (2..=16u32, 1..64u32).prop_map(|(bits, mu)| format!("slog{bits}:mu{mu}")),
        prop::sample::select(vec!["nf4", "e2m1", "e4m3"]).prop_map(String::from),
    ];
    let group =
        || prop_oneof![Just("tensor".to_owned()), Just("row".to_owned()), (1..140u32).prop_map(|n| n.to_string())];
    let kind = || prop::sample::select(vec!["f32", "f16", "bf16"]);
    let nested = (prop::sample::select(vec!["int8", "uint6", "nf4", "e4m3"]), group(), kind());
    let scale = prop_oneof![
        3 => kind().prop_map(String::from),
        1 => nested.prop_map(|(code, group, kind)| format!("{code}/{group}:{kind}")),
    ];
    let columns = prop_oneof![Just(Columns::Natural), Just(Columns::Permuted)];
    (code, group(), scale, [1..40usize, 1..200], 1..9usize, columns).prop_map(
        |(code, group, scale, [out, columns], rows, order)| Case {
            scheme: format!("{code}/{group}/{scale}").parse().expect("a scheme"),
            shape: [out, columns],
            rows,
            columns: order,
        },
    )
}

/// What a case is tested with, drawn from a seed.
pub struct Sample {
    pub packed: Packed,
    /// `[out, in]`, by the oracle.
    pub w: Vec<f32>,
    /// `[rows, in]`.
    pub x: Vec<f32>,
    /// `[rows, out]`.
    pub dy: Vec<f32>,
}

impl Sample {
    pub fn new(case: &Case, seed: u64) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let Case { scheme, shape: shape @ [out, columns], rows, .. } = *case;
        let codes = any_codes(rng, scheme.code, out * columns);
        let [scale_rows, groups] = scheme.group.scale_shape(shape);
        let mut kept = |scale: Scale| match scale {
            Scale::Float(kind) => {
                Scales::Float(floats(rng, scale_rows * groups).iter().map(|&s| kind.round(s)).collect())
            }
            Scale::PowerOfTwo => Scales::Float(
                floats(rng, scale_rows * groups).iter().map(|&s| quench::format::power_of_two(s.abs())).collect(),
            ),
            Scale::Nested { code, group, outer } => {
                let [outer_rows, outers] = group.scale_shape([scale_rows, groups]);
                Scales::Nested {
                    codes: any_codes(rng, code, scale_rows * groups),
                    outer: floats(rng, outer_rows * outers).iter().map(|&s| outer.round(s)).collect(),
                }
            }
        };
        let scales = kept(scheme.scale);
        let offsets = match scheme.minimum {
            Some(minimum) => Offsets::Minimums(kept(minimum)),
            None => scheme.has_zeros().then(|| any_codes(rng, scheme.code, scale_rows * groups)).into(),
        };
        let order = match case.columns {
            Columns::Natural => None,
            Columns::Permuted => {
                let mut order: Vec<u32> = (0..columns as u32).collect();
                order.shuffle(rng);
                Some(order)
            }
        };
        let packed = Packed::from_codes(scheme, shape, &codes, scales, offsets, order)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        Self { w: packed.decode(), packed, x: floats(rng, rows * columns), dy: floats(rng, rows * out) }
    }
}

fn any_codes(rng: &mut ChaCha8Rng, code: Code, n: usize) -> Vec<u16> {
    (0..n).map(|_| rng.random_range(0..code.len()) as u16).collect()
}

pub fn floats(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}
