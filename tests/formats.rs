//! Every code, group, scale, zero point and order together: packed, unpacked and decoded against the formula.

use std::num::NonZeroU32;

use proptest::prelude::*;
use quench::format::{
    Bits, Code, FloatKind, FormatError, Group, Minifloat, Mu, Octaves, Offsets, Packed, Parts, Scale, Scales, Scheme,
};

/// A matrix before packing: everything the formula needs.
#[derive(Clone, Debug)]
struct Case {
    scheme: Scheme,
    shape: [usize; 2],
    codes: Vec<u16>,
    scales: Scales,
    offsets: Offsets,
    order: Option<Vec<u32>>,
}

impl Case {
    fn pack(&self) -> Result<Packed, FormatError> {
        let (scales, offsets, order) = (self.scales.clone(), self.offsets.clone(), self.order.clone());
        Packed::from_codes(self.scheme, self.shape, &self.codes, scales, offsets, order)
    }

    /// Position in `[rows, ceil(columns / group)]` of the group that holds `[row, column]`.
    fn index(group: Group, columns: usize, row: usize, column: usize) -> usize {
        match group {
            Group::Tensor => 0,
            Group::Row => row,
            Group::Columns(size) => {
                let size = size.get() as usize;
                row * columns.div_ceil(size) + column / size
            }
        }
    }

    /// The formula of the crate's front page, one weight at a time.
    fn weight(&self, row: usize, stored: usize) -> f32 {
        let [_, columns] = self.shape;
        let code = self.scheme.code;
        let at = Self::index(self.scheme.group, columns, row, stored);
        let kept = |kept: Scale, scales: &Scales| match (scales, kept) {
            (Scales::Float(scales), _) => scales[at],
            (Scales::Nested { codes, outer }, Scale::Nested { code, group, .. }) => {
                let (scale_row, scale_columns, scale_column) = match self.scheme.group {
                    Group::Tensor => (0, 1, 0),
                    Group::Row => (row, 1, 0),
                    Group::Columns(size) => {
                        let size = size.get() as usize;
                        (row, columns.div_ceil(size), stored / size)
                    }
                };
                outer[Self::index(group, scale_columns, scale_row, scale_column)] * code.level(codes[at])
            }
            (Scales::Nested { .. }, _) => unreachable!("the case was made to fit"),
        };
        let scale = kept(self.scheme.scale, &self.scales);
        let level = code.level(self.codes[row * columns + stored]);
        match (&self.offsets, self.scheme.minimum) {
            (Offsets::Minimums(minimums), Some(minimum)) => scale * level + kept(minimum, minimums),
            (Offsets::Zeros(zeros), None) => scale * (level - f32::from(zeros[at])),
            _ => scale * level,
        }
    }

    fn naive(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        let mut w = vec![f32::NAN; rows * columns];
        for row in 0..rows {
            for stored in 0..columns {
                let column = self.order.as_ref().map_or(stored, |order| order[stored] as usize);
                w[row * columns + column] = self.weight(row, stored);
            }
        }
        w
    }
}

fn any_code() -> impl Strategy<Value = Code> {
    let bits = |from: u8| (from..=16).prop_map(|bits| Bits::new(bits).unwrap());
    let mu = (0_u16..=u16::MAX).prop_map(|halves| Mu::new(f32::from(halves) / 2.0).unwrap());
    let range = (1_u16..=128).prop_map(|quarters| Octaves::new(f32::from(quarters) / 4.0).unwrap());
    prop_oneof![
        2 => bits(1).prop_map(|bits| Code::Int { bits }),
        2 => bits(1).prop_map(|bits| Code::Affine { bits }),
        2 => (bits(2), mu).prop_map(|(bits, mu)| Code::LogSigned { bits, mu }),
        2 => (bits(2), range).prop_map(|(bits, range)| Code::Geometric { bits, range }),
        1 => bits(2).prop_map(|bits| Code::PublishedLog { bits }),
        1 => prop::sample::select(vec![Code::Normal4, Code::Nonlinear4]),
        1 => Just(Code::Float(Minifloat::E2M1)),
        1 => Just(Code::Float(Minifloat::E4M3)),
    ]
}

fn any_group() -> impl Strategy<Value = Group> {
    prop_oneof![
        1 => Just(Group::Tensor),
        1 => Just(Group::Row),
        4 => (1_u32..40).prop_map(|size| Group::Columns(NonZeroU32::new(size).unwrap())),
    ]
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    let kind = || prop::sample::select(vec![FloatKind::F32, FloatKind::F16, FloatKind::BF16]);
    let scale = prop_oneof![
        Just(Scale::PowerOfTwo),
        kind().prop_map(Scale::Float),
        (any_code(), any_group(), kind()).prop_map(|(code, group, outer)| Scale::Nested { code, group, outer }),
    ];
    (any_code(), any_group(), scale.clone(), prop::option::of(scale)).prop_map(|(code, group, scale, minimum)| Scheme {
        code,
        group,
        scale,
        minimum,
    })
}

fn codes(code: Code, count: usize) -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(0..=(code.len() - 1) as u16, count)
}

fn floats(kind: FloatKind, count: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-100.0_f32..100.0).prop_map(move |x| kind.round(x)), count)
}

fn any_case() -> impl Strategy<Value = Case> {
    (any_scheme(), 1_usize..6, 1_usize..70).prop_flat_map(|(scheme, rows, columns)| {
        let shape = [rows, columns];
        let scale_shape = scheme.group.scale_shape(shape);
        let count = scale_shape[0] * scale_shape[1];
        let kept = |scale| match scale {
            Scale::Float(kind) => floats(kind, count).prop_map(Scales::Float).boxed(),
            Scale::PowerOfTwo => prop::collection::vec((-100..30).prop_map(|power| 2.0_f32.powi(power)), count)
                .prop_map(Scales::Float)
                .boxed(),
            Scale::Nested { code, group, outer } => {
                let [rows, columns] = group.scale_shape(scale_shape);
                (codes(code, count), floats(outer, rows * columns))
                    .prop_map(|(codes, outer)| Scales::Nested { codes, outer })
                    .boxed()
            }
        };
        let scales = kept(scheme.scale);
        let offsets = match scheme.minimum {
            Some(minimum) => kept(minimum).prop_map(Offsets::Minimums).boxed(),
            None if scheme.code.is_affine() => codes(scheme.code, count).prop_map(Offsets::Zeros).boxed(),
            None => Just(Offsets::None).boxed(),
        };
        let order = prop::option::of(Just((0..columns as u32).collect::<Vec<u32>>()).prop_shuffle());
        (codes(scheme.code, rows * columns), scales, offsets, order)
            .prop_map(move |(codes, scales, offsets, order)| Case { scheme, shape, codes, scales, offsets, order })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decode_is_the_formula(case in any_case()) {
        let packed = case.pack().unwrap();
        prop_assert_eq!(packed.decode(), case.naive());
        prop_assert_eq!(packed.codes(), case.codes.clone());
        let same = Packed::new(case.scheme, case.shape, packed.parts().clone());
        prop_assert_eq!(same.as_ref(), Ok(&packed));
        // The size is what the parts hold, each counted on its own.
        let parts = packed.parts();
        let bits = |scales: &Scales, kept: Scale| match (scales, kept) {
            (Scales::Float(scales), Scale::Float(kind)) => scales.len() as u64 * u64::from(kind.bits()),
            (Scales::Float(scales), _) => scales.len() as u64 * 8,
            (Scales::Nested { codes, outer }, Scale::Nested { code, outer: kind, .. }) => {
                codes.len() as u64 * u64::from(code.bits()) + outer.len() as u64 * u64::from(kind.bits())
            }
            _ => unreachable!("the case was made to fit"),
        };
        let scales = bits(&parts.scales, case.scheme.scale);
        let offsets = match (&parts.offsets, case.scheme.minimum) {
            (Offsets::Minimums(minimums), Some(minimum)) => bits(minimums, minimum),
            (Offsets::Zeros(zeros), _) => zeros.len() as u64 * u64::from(case.scheme.code.bits()),
            _ => 0,
        };
        let order = parts.order.as_ref().map_or(0, |order| order.len() as u64 * 32);
        prop_assert_eq!(packed.storage_bits(), parts.codes.len() as u64 * 32 + scales + offsets + order);
        prop_assert_eq!(
            packed.bits_per_weight(),
            packed.storage_bits() as f64 / (case.shape[0] * case.shape[1]) as f64
        );
        // What every kernel relies on: one scale and zero or minimum for each group of each row.
        let groups = case.scheme.group.groups_per_row(case.shape[1]);
        prop_assert_eq!(packed.scale_values().len(), case.shape[0] * groups);
        let all = case.shape[0] * groups;
        prop_assert_eq!(packed.zero_values().map(|zeros| zeros.len()), case.offsets.zeros().map(|_| all));
        prop_assert_eq!(packed.minimums().map(|minimums| minimums.len()), case.offsets.minimums().map(|_| all));
    }

    /// Parts changed anywhere are refused, or still decode to finite numbers: never a panic, never a NaN.
    #[test]
    fn damage_is_refused_or_harmless(
        case in any_case(), part in 0..8, at in any::<prop::sample::Index>(), bits in any::<u32>()
    ) {
        let (scheme, mut shape) = (case.scheme, case.shape);
        let mut parts = case.pack().unwrap().into_parts();
        match part {
            0 => { let i = at.index(parts.codes.len()); parts.codes[i] ^= bits; }
            1 => { parts.codes.push(bits); }
            2 => match &mut parts.scales {
                Scales::Float(scales) | Scales::Nested { outer: scales, .. } => {
                    let i = at.index(scales.len());
                    scales[i] = f32::from_bits(bits);
                }
            },
            3 => if let Scales::Nested { codes, .. } = &mut parts.scales {
                let i = at.index(codes.len());
                codes[i] ^= bits as u16;
            },
            4 => match &mut parts.offsets {
                Offsets::None => {}
                Offsets::Zeros(zeros) => {
                    let i = at.index(zeros.len());
                    zeros[i] ^= bits as u16;
                }
                Offsets::Minimums(Scales::Float(minimums) | Scales::Nested { outer: minimums, .. }) => {
                    let i = at.index(minimums.len());
                    minimums[i] = f32::from_bits(bits);
                }
            },
            5 => if let Some(order) = &mut parts.order {
                let i = at.index(order.len());
                order[i] = bits % (2 * shape[1] as u32);
            },
            6 => shape[at.index(2)] = bits as usize,
            _ => {
                parts.offsets = match parts.offsets {
                    Offsets::None => Offsets::Zeros(vec![0]),
                    Offsets::Zeros(_) | Offsets::Minimums(_) => Offsets::None,
                }
            }
        }
        if let Ok(packed) = Packed::new(scheme, shape, parts) {
            prop_assert!(packed.decode().iter().all(|w| w.is_finite()));
        }
    }
}

/// Words written down by hand from `docs/format.md`: a change here breaks every file already saved.
#[test]
fn the_words_of_a_row_never_change() {
    let cases: [(&str, &[u16], &[u32]); 6] = [
        ("int4/row/f16", &[1, 2, 3, 4, 5, 6, 7, 8, 15], &[0x8765_4321, 0x0000_000f]),
        ("int8/row/f16", &[0x11, 0x22, 0x33, 0x44, 0x55], &[0x4433_2211, 0x0000_0055]),
        ("int2/row/f16", &[0, 1, 2, 3], &[0b1110_0100]),
        // 3 x 10 bits fill 30; the eleventh code has 2 bits in word 0 and 1 in word 1.
        ("int3/row/f16", &[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 6], &[0b10_001_000_111_110_101_100_011_010_001_000, 0b1]),
        ("slog5/row/f16", &[1, 2, 3, 4, 5, 6, 29], &[0b01_00110_00101_00100_00011_00010_00001, 0b111]),
        ("int16/row/f32", &[0xbeef, 0xdead, 1], &[0xdead_beef, 1]),
    ];
    for (scheme, codes, words) in cases {
        let scales = Scales::Float(vec![1.0]);
        let packed = Packed::from_codes(scheme.parse().unwrap(), [1, codes.len()], codes, scales, None, None);
        assert_eq!(packed.unwrap().parts().codes, words, "{scheme}");
    }
}

/// The strings of the example in `docs/format.md`: two columns of 32 rows, the second without a bit.
#[test]
fn the_strings_of_a_column_never_change() {
    let mut windows = [0; 64];
    for (row, window) in [(0, 0x01), (28, 0x80), (29, 0x60), (30, 0x18), (31, 0x06)] {
        windows[2 * row] = window;
    }
    let scheme = "trellis2:8/tensor/f32".parse().unwrap();
    let packed = Packed::from_codes(scheme, [32, 2], &windows, Scales::Float(vec![0.5]), None, None).unwrap();
    assert_eq!(packed.parts().codes, [0x0000_0001, 0x8000_0000, 0, 0]);
    assert_eq!(packed.decode()[..2], [0.5 * 58.0 * 887.0 / 131_072.0, 0.5 * -510.0 * 887.0 / 131_072.0]);
    assert_eq!((packed.codes(), packed.bits_per_weight()), (windows.to_vec(), 2.5));
}

/// Codes and levels written down: what a saved code stands for never changes either.
#[test]
fn the_levels_of_a_code_never_change() {
    let cases: [(&str, &[(u16, f32)]); 10] = [
        ("int4", &[(0, -8.0), (8, 0.0), (15, 7.0)]),
        ("uint4", &[(0, 0.0), (15, 15.0)]),
        ("slog4:mu15", &[(7, 1.0), (8, 0.0), (15, -1.0), (1, 0.032_399_62), (14, -0.651_146_77)]),
        ("lns4:oct3", &[(0, 0.0), (1, 0.125), (3, 0.25), (7, 1.0), (8, 0.0), (15, -1.0), (2, 0.176_776_69)]),
        ("plog8", &[(0, 0.0), (1, 0.0), (129, 0.0), (2, 0.142_857_15), (127, 0.998_383_5), (192, -0.857_142_87)]),
        ("nf4", &[(0, -1.0), (7, 0.0), (8, 0.079_580_3), (15, 1.0)]),
        ("iq4nl", &[(0, -127.0), (7, -10.0), (8, 1.0), (15, 113.0)]),
        ("e2m1", &[(1, 0.5), (7, 6.0), (8, 0.0), (9, -0.5)]),
        ("e4m3", &[(0x38, 1.0), (0x7e, 448.0), (0x7f, 0.0), (0x80, 0.0), (0xfe, -448.0)]),
        ("int1", &[(0, -1.0), (1, 0.0)]),
    ];
    for (code, levels) in cases {
        let code: Code = code.parse().unwrap();
        for &(value, level) in levels {
            assert_eq!(code.level(value), level, "{code} {value}");
        }
    }
}

/// A refused matrix names its part and position.
#[test]
fn errors_name_the_culprit() {
    let scheme: Scheme = "int4/2/f16".parse().unwrap();
    let parts =
        Parts { codes: vec![0], scales: Scales::Float(vec![1.0, f32::NAN]), offsets: Offsets::None, order: None };
    let error = Packed::new(scheme, [1, 4], parts).unwrap_err();
    assert_eq!(error.to_string(), "scales[1]: NaN is not a finite f16 number");
}
