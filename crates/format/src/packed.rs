//! A validated quantized matrix on the host, and the decode that says what it means.

use crate::scheme::is_power_of_two;
use crate::{Code, FormatError, Group, Scale, Scheme, Trellis, bits};

/// The scales of a matrix, or its minimums, as its scheme keeps them. `groups` is [`Group::groups_per_row`].
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// `[out, groups]`, or `[1]` with [`Group::Tensor`]; each exactly a value of the scheme's kind.
    Float(Vec<f32>),
    /// `scale = outer * level(code)`.
    Nested {
        /// `[out, groups]`, or `[1]` with [`Group::Tensor`].
        codes: Vec<u16>,
        /// `[out, outer groups]`, `[out]` or `[1]`, as the nested group says over a row of `groups` scales.
        outer: Vec<f32>,
    },
}

impl Scales {
    fn form(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Nested { .. } => "nested",
        }
    }
}

/// What the groups of a matrix have beside their scales, as its scheme says.
#[derive(Clone, Debug, PartialEq)]
pub enum Offsets {
    /// Nothing: the code is not affine.
    None,
    /// Integer zero points, as many as scales, each of the code's bits: the code is affine, and the scheme has no minimum.
    Zeros(Vec<u16>),
    /// Minimums, as many as scales: the scheme says how they are kept.
    Minimums(Scales),
}

impl Offsets {
    /// The zero points, where there are any.
    pub fn zeros(&self) -> Option<&[u16]> {
        match self {
            Self::Zeros(zeros) => Some(zeros),
            Self::None | Self::Minimums(_) => None,
        }
    }

    /// The minimums as they are kept, where there are any.
    pub fn minimums(&self) -> Option<&Scales> {
        match self {
            Self::Minimums(minimums) => Some(minimums),
            Self::None | Self::Zeros(_) => None,
        }
    }

    fn form(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zeros(_) => "zero points",
            Self::Minimums(_) => "minimums",
        }
    }
}

/// Zero points where there are some, else nothing.
impl From<Option<Vec<u16>>> for Offsets {
    fn from(zeros: Option<Vec<u16>>) -> Self {
        zeros.map_or(Self::None, Self::Zeros)
    }
}

/// What a quantized matrix consists of, not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Packed codes, `[out, words_per_row]`; see [`crate::bits`]. Of a trellis code, strings: see [`crate::trellis::Strings`].
    pub codes: Vec<u32>,
    /// Scales, one for each group.
    pub scales: Scales,
    /// Zero points or minimums, one for each group.
    pub offsets: Offsets,
    /// A permutation of `0..in`: stored column `j` holds original column `order[j]`. Groups run over stored columns.
    pub order: Option<Vec<u32>>,
}

/// A validated quantized matrix `[out, in]`. If you hold one, its parts agree, and every weight it decodes to is finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    scheme: Scheme,
    shape: [usize; 2],
    parts: Parts,
}

impl Packed {
    /// Checks `parts` against scheme and shape `[out, in]`.
    ///
    /// Errors name the part and the position: a wrong length, fewer rows than a window of a trellis code needs, padding that is not
    /// zero, scales of the wrong form, not finite, not representable or overflowing, zero points or minimums missing, unasked for
    /// or out of range, an order that is no permutation.
    pub fn new(scheme: Scheme, shape: [usize; 2], parts: Parts) -> Result<Self, FormatError> {
        check_scheme(scheme, shape)?;
        check_words(scheme.code, shape, &parts.codes)?;
        let groups = scheme.group.scale_shape(shape);
        check_scales(SCALES, scheme.scale, groups, &parts.scales)?;
        check_offsets(scheme, groups, &parts.offsets)?;
        if let Some(order) = &parts.order {
            check_order(shape[1], order)?;
        }
        let packed = Self { scheme, shape, parts };
        packed.check_reach()?;
        Ok(packed)
    }

    /// Packs `codes [out, in]`, given in stored column order, and checks the rest as [`Packed::new`] does.
    ///
    /// - `codes`: of a trellis code windows, which must agree with each other
    /// - `offsets`: zero points, `Some(zeros)` or `None`, or [`Offsets::Minimums`]
    pub fn from_codes(
        scheme: Scheme,
        shape: [usize; 2],
        codes: &[u16],
        scales: Scales,
        offsets: impl Into<Offsets>,
        order: Option<Vec<u32>>,
    ) -> Result<Self, FormatError> {
        check_scheme(scheme, shape)?;
        check_length("codes", shape[0] * shape[1], codes.len())?;
        check_codes("codes", scheme.code, codes)?;
        let codes = match scheme.code.strings(shape) {
            Some(strings) => strings.pack(codes)?,
            None => bits::pack(codes, shape[1], scheme.code.bits()),
        };
        Self::new(scheme, shape, Parts { codes, scales, offsets: offsets.into(), order })
    }

    /// How the matrix is coded.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The checked parts.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The parts, given away.
    pub fn into_parts(self) -> Parts {
        self.parts
    }

    /// The codes unpacked, `[out, in]` in stored column order; of a trellis code the windows.
    pub fn codes(&self) -> Vec<u16> {
        match self.scheme.code.strings(self.shape) {
            Some(strings) => strings.windows(&self.parts.codes),
            None => bits::unpack(&self.parts.codes, self.shape[1], self.scheme.code.bits()),
        }
    }

    /// The scale of every group of every row, `[out, groups]`; with [`Group::Tensor`] the one scale, `out` times.
    ///
    /// Nested scales are multiplied out, `outer * level(code)`, with one rounding to `f32`.
    pub fn scale_values(&self) -> Vec<f32> {
        self.expand(self.multiplied_out(self.scheme.scale, &self.parts.scales))
    }

    /// The zero point of every group of every row, laid out as [`Packed::scale_values`]; `None` where the matrix has none.
    pub fn zero_values(&self) -> Option<Vec<f32>> {
        let zeros = self.parts.offsets.zeros()?;
        Some(self.expand(zeros.iter().map(|&zero| f32::from(zero)).collect()))
    }

    /// The minimum of every group of every row, laid out and multiplied out as [`Packed::scale_values`]; `None` where the
    /// matrix has none.
    pub fn minimums(&self) -> Option<Vec<f32>> {
        let (minimum, minimums) = (self.scheme.minimum?, self.parts.offsets.minimums()?);
        Some(self.expand(self.multiplied_out(minimum, minimums)))
    }

    /// The definition of what this matrix means: `[out, in]`, row-major, in the original column order.
    ///
    /// ```text
    /// w[r, order[j]] = scale[r, g] * (level(code[r, j]) - zero[r, g])      g = j / group size
    /// w[r, order[j]] = scale[r, g] * level(code[r, j]) + minimum[r, g]     where there are minimums
    /// ```
    ///
    /// The difference is exact; the product is rounded once, and so is the sum.
    pub fn decode(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        let (group, groups) = (self.scheme.group.size(columns), self.scheme.group.groups_per_row(columns));
        let (scales, zeros, minimums) = (self.scale_values(), self.zero_values(), self.minimums());
        let mut decoded = vec![0.0; rows * columns];
        // Levels of one row, of some columns from `first`.
        let mut put = |row: usize, mut first: usize, mut levels: &[f32]| {
            let w = &mut decoded[row * columns..][..columns];
            while !levels.is_empty() {
                let g = first / group;
                let (of_group, others) = levels.split_at(((g + 1) * group - first).min(levels.len()));
                let scale = scales[row * groups + g];
                let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[row * groups + g]);
                let minimum = minimums.as_ref().map(|minimums| minimums[row * groups + g]);
                for (j, level) in (first..).zip(of_group) {
                    let column = self.parts.order.as_ref().map_or(j, |order| order[j] as usize);
                    let product = scale * (level - zero);
                    // Not plus zero where there is none, which would lose the sign of a negative zero.
                    w[column] = minimum.map_or(product, |minimum| product + minimum);
                }
                (first, levels) = (first + of_group.len(), others);
            }
        };
        let words = &self.parts.codes;
        if let Some(strings) = self.scheme.code.strings(self.shape) {
            strings.by_row(words, Trellis::decode, put);
            return decoded;
        }
        let (grid, bits) = (self.scheme.code.grid(), self.scheme.code.bits());
        let (mut codes, mut levels) = (vec![0; columns], vec![0.0; columns]);
        for (row, words) in words.chunks_exact(bits::words_per_row(columns, bits)).enumerate() {
            bits::unpack_row(words, bits, &mut codes);
            for (level, code) in levels.iter_mut().zip(&codes) {
                *level = grid.level(*code);
            }
            put(row, 0, &levels);
        }
        decoded
    }

    /// Bits this matrix takes: [`Scheme::storage_bits`], and 32 for each column where it has an order.
    pub fn storage_bits(&self) -> u64 {
        let order = self.parts.order.as_ref().map_or(0, |order| order.len() as u64 * u64::from(u32::BITS));
        self.scheme.storage_bits(self.shape) + order
    }

    /// [`Packed::storage_bits`] over the number of weights.
    pub fn bits_per_weight(&self) -> f64 {
        self.storage_bits() as f64 / (self.shape[0] as f64 * self.shape[1] as f64)
    }

    /// Scales multiplied out but not repeated: `[out, groups]`, or `[1]` with [`Group::Tensor`].
    fn multiplied_out(&self, kept: Scale, scales: &Scales) -> Vec<f32> {
        let (codes, outer) = match scales {
            Scales::Float(scales) => return scales.clone(),
            Scales::Nested { codes, outer } => (codes, outer),
        };
        let Scale::Nested { code, group, .. } = kept else {
            unreachable!("the form of the scales was checked");
        };
        let [_, groups] = self.scheme.group.scale_shape(self.shape);
        let (size, outers) = (group.size(groups), group.groups_per_row(groups));
        let outer_at = |i: usize| match group {
            Group::Tensor => outer[0],
            Group::Row | Group::Columns(_) => outer[i / groups * outers + i % groups / size],
        };
        let grid = code.grid();
        codes.iter().enumerate().map(|(i, &code)| outer_at(i) * grid.level(code)).collect()
    }

    /// Repeats one value for every row with [`Group::Tensor`]; all other groups have one for each already.
    fn expand(&self, values: Vec<f32>) -> Vec<f32> {
        match self.scheme.group {
            Group::Tensor => vec![values[0]; self.shape[0]],
            Group::Row | Group::Columns(_) => values,
        }
    }

    /// No weight overflows: the largest level times every scale, and the minimum added, is finite.
    fn check_reach(&self) -> Result<(), FormatError> {
        let reach = self.scheme.code.reach();
        let scales = self.multiplied_out(self.scheme.scale, &self.parts.scales);
        let minimums = self.scheme.minimum.zip(self.parts.offsets.minimums());
        let minimums = minimums.map(|(kept, minimums)| self.multiplied_out(kept, minimums));
        let minimum = |index: usize| minimums.as_ref().map_or(0.0, |minimums| minimums[index].abs());
        let overflows = |(index, scale): (usize, &f32)| !((scale * reach).abs() + minimum(index)).is_finite();
        match scales.iter().enumerate().position(overflows) {
            Some(index) => Err(FormatError::ScaleOverflow { index, value: scales[index] }),
            None => Ok(()),
        }
    }
}

fn check_scheme(scheme: Scheme, shape: [usize; 2]) -> Result<(), FormatError> {
    let [rows, columns] = shape;
    // Columns are u32 in an order; 4 bytes a weight must be addressable for `decode` to exist.
    let fits =
        rows.checked_mul(columns).and_then(|weights| weights.checked_mul(4)).is_some_and(|b| b <= isize::MAX as usize);
    if rows == 0 || columns == 0 || u32::try_from(columns).is_err() || !fits {
        return Err(FormatError::Shape { shape });
    }
    scheme.code.check()?;
    let kept = [Some(scheme.scale), scheme.minimum];
    kept.into_iter().flatten().try_for_each(|scale| match scale {
        Scale::Float(_) | Scale::PowerOfTwo => Ok(()),
        Scale::Nested { code, .. } if !code.is_scalar() => Err(FormatError::SharedBits { code }),
        Scale::Nested { code, .. } => code.check(),
    })?;
    match scheme.code.strings(shape).map(|strings| strings.least_rows()) {
        Some(least) if rows < least => Err(FormatError::ShortString { code: scheme.code, rows, least }),
        _ => Ok(()),
    }
}

/// Checks that there are as many words of codes as there must be, and that what pads them is zero.
fn check_words(code: Code, shape: [usize; 2], words: &[u32]) -> Result<(), FormatError> {
    if let Some(strings) = code.strings(shape) {
        check_length("codes", strings.words(), words.len())?;
        return match strings.padded(words) {
            Some((column, row)) => Err(FormatError::StringPadding { column, row }),
            None => Ok(()),
        };
    }
    let [rows, columns] = shape;
    let per_row = bits::words_per_row(columns, code.bits());
    check_length("codes", rows * per_row, words.len())?;
    let padded = |row: &[u32]| !bits::padding_is_zero(row, columns, code.bits());
    match words.chunks_exact(per_row).position(padded) {
        Some(row) => Err(FormatError::Padding { row }),
        None => Ok(()),
    }
}

fn check_length(part: &'static str, expected: usize, found: usize) -> Result<(), FormatError> {
    if expected == found { Ok(()) } else { Err(FormatError::Length { part, expected, found }) }
}

fn check_codes(part: &'static str, code: Code, codes: &[u16]) -> Result<(), FormatError> {
    match codes.iter().position(|&value| usize::from(value) >= code.len()) {
        Some(index) => Err(FormatError::CodeRange { part, index, value: codes[index], bits: code.width() }),
        None => Ok(()),
    }
}

/// What errors call scales or minimums, their codes and their outer ones.
type Names = [&'static str; 3];

const SCALES: Names = ["scales", "scale codes", "outer scales"];
const MINIMUMS: Names = ["minimums", "minimum codes", "outer minimums"];

/// Checks scales, or minimums, of groups `[rows, groups]`.
fn check_scales(
    [whole, inner, outermost]: Names,
    kept: Scale,
    shape: [usize; 2],
    scales: &Scales,
) -> Result<(), FormatError> {
    let [rows, groups] = shape;
    match (kept, scales) {
        (Scale::Float(_) | Scale::PowerOfTwo, Scales::Float(values)) => {
            check_length(whole, rows * groups, values.len())?;
            check_values(whole, kept, values)
        }
        (Scale::Nested { code, group, outer: kind }, Scales::Nested { codes, outer }) => {
            check_length(inner, rows * groups, codes.len())?;
            check_codes(inner, code, codes)?;
            let [rows, outers] = group.scale_shape([rows, groups]);
            check_length(outermost, rows * outers, outer.len())?;
            check_values(outermost, Scale::Float(kind), outer)
        }
        (Scale::Float(_) | Scale::PowerOfTwo, nested) => {
            Err(FormatError::ScaleForm { part: whole, expected: "float", found: nested.form() })
        }
        (Scale::Nested { .. }, float) => {
            Err(FormatError::ScaleForm { part: whole, expected: "nested", found: float.form() })
        }
    }
}

fn check_values(part: &'static str, kept: Scale, values: &[f32]) -> Result<(), FormatError> {
    let holds = |value: f32| kept.float().map_or(is_power_of_two(value), |kind| kind.holds(value));
    match values.iter().position(|&value| !holds(value)) {
        Some(index) => Err(FormatError::ScaleValue { part, index, value: values[index], kind: kept }),
        None => Ok(()),
    }
}

/// Checks what groups `[rows, groups]` have beside their scales.
fn check_offsets(scheme: Scheme, shape: [usize; 2], offsets: &Offsets) -> Result<(), FormatError> {
    let code = scheme.code;
    match (scheme.minimum, offsets) {
        (Some(minimum), Offsets::Minimums(minimums)) => check_scales(MINIMUMS, minimum, shape, minimums),
        (Some(_), other) => Err(FormatError::Minimums { expected: "minimums", found: other.form() }),
        (None, Offsets::Minimums(_)) => Err(FormatError::Minimums { expected: "none", found: offsets.form() }),
        (None, Offsets::None) if code.is_affine() => Err(FormatError::ZerosMissing { code }),
        (None, Offsets::None) => Ok(()),
        (None, Offsets::Zeros(zeros)) if !code.is_affine() => {
            Err(FormatError::ZerosUnexpected { code, found: zeros.len() })
        }
        (None, Offsets::Zeros(zeros)) => {
            check_length("zeros", shape[0] * shape[1], zeros.len())?;
            match zeros.iter().position(|&zero| usize::from(zero) >= code.len()) {
                Some(index) => Err(FormatError::ZeroRange { index, value: zeros[index], bits: code.bits() }),
                None => Ok(()),
            }
        }
    }
}

fn check_order(columns: usize, order: &[u32]) -> Result<(), FormatError> {
    check_length("order", columns, order.len())?;
    let mut seen = vec![false; columns];
    for (index, &column) in order.iter().enumerate() {
        match seen.get_mut(column as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(FormatError::Order { index, column, columns }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        text.parse().unwrap()
    }

    /// A 2 x 5 matrix of 3-bit affine codes, groups of 2, 2 and 1, columns reversed.
    fn good() -> (Scheme, [usize; 2], Parts) {
        let codes = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1];
        let parts = Parts {
            codes: bits::pack(&codes, 5, 3),
            scales: Scales::Float(vec![1.0, 2.0, 0.5, -1.0, 0.25, 3.0]),
            offsets: Offsets::Zeros(vec![0, 1, 2, 3, 4, 7]),
            order: Some(vec![4, 3, 2, 1, 0]),
        };
        (scheme("uint3/2/f16"), [2, 5], parts)
    }

    fn error(change: impl FnOnce(&mut Scheme, &mut [usize; 2], &mut Parts)) -> FormatError {
        let (mut scheme, mut shape, mut parts) = good();
        change(&mut scheme, &mut shape, &mut parts);
        Packed::new(scheme, shape, parts).unwrap_err()
    }

    #[test]
    fn decode_by_hand() {
        let (scheme, shape, parts) = good();
        let packed = Packed::new(scheme, shape, parts.clone()).unwrap();
        // Stored: row 0 is 1*(0-0), 1*(1-0), 2*(2-1), 2*(3-1), 0.5*(4-2); row 1 -1*(5-3), -1*(6-3), 0.25*(7-4), ...
        let stored = [[0.0, 1.0, 2.0, 4.0, 1.0], [-2.0, -3.0, 0.75, -1.0, -18.0]];
        let expected: Vec<f32> = stored.iter().flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(packed.decode(), expected);
        assert_eq!(packed.codes(), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]);
        assert_eq!(packed.scale_values(), [1.0, 2.0, 0.5, -1.0, 0.25, 3.0]);
        assert_eq!(packed.zero_values().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 7.0]);
        // Two words, six f16 scales, six 3-bit zeros, five 32-bit columns.
        assert_eq!(packed.storage_bits(), 2 * 32 + 6 * 16 + 6 * 3 + 5 * 32);
        assert_eq!((packed.scheme(), packed.shape(), packed.parts()), (scheme, shape, &parts));
        assert_eq!(packed.into_parts(), parts);
    }

    #[test]
    fn one_scale_for_the_matrix_is_repeated_for_every_row() {
        let scales = Scales::Float(vec![0.5]);
        let packed = Packed::from_codes(scheme("uint2/tensor/f16"), [2, 2], &[0, 1, 2, 3], scales, Some(vec![1]), None);
        let packed = packed.unwrap();
        assert_eq!(packed.decode(), [-0.5, 0.0, 0.5, 1.0]);
        assert_eq!(packed.scale_values(), [0.5, 0.5]);
        assert_eq!(packed.zero_values(), Some(vec![1.0, 1.0]));
        assert_eq!(packed.storage_bits(), 2 * 32 + 16 + 2);
    }

    #[test]
    fn nested_scales_are_multiplied_out() {
        // Rows of 5 columns in groups of 2 have 3 scales, two to an outer scale: 2 outer scales a row.
        let nested = |codes: [u16; 6], outer: Vec<f32>| Scales::Nested { codes: codes.to_vec(), outer };
        let ones = [9; 10];
        let cases = [
            ("int4/2/uint4/2:f32", vec![0.5, 0.25, 2.0, 4.0], [0.5, 1.0, 0.75, 8.0, 10.0, 24.0]),
            ("int4/2/uint4/row:f32", vec![0.5, 2.0], [0.5, 1.0, 1.5, 8.0, 10.0, 12.0]),
            ("int4/2/uint4/tensor:f32", vec![0.5], [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        ];
        for (text, outer, expected) in cases {
            let scales = nested([1, 2, 3, 4, 5, 6], outer);
            let packed = Packed::from_codes(scheme(text), [2, 5], &ones, scales, None, None).unwrap();
            assert_eq!(packed.scale_values(), expected, "{text}");
            let [a, b, c, d, e, f] = expected;
            assert_eq!(packed.decode(), [a, a, b, b, c, d, d, e, e, f], "{text}");
        }
    }

    #[test]
    fn minimums_are_added() {
        // Rows of 4 columns in groups of 2; the minimums nested, two to an outer one.
        let minimums = Scales::Nested { codes: vec![1, 2, 3, 0], outer: vec![-0.5, 2.0] };
        let scales = Scales::Float(vec![1.0, 2.0, 0.25, 4.0]);
        let text = scheme("uint2/2/f16/min:uint6/2:f16");
        let codes = [0, 1, 2, 3, 3, 2, 1, 0];
        let packed = Packed::from_codes(text, [2, 4], &codes, scales, Offsets::Minimums(minimums), None).unwrap();
        assert_eq!(packed.minimums().unwrap(), [-0.5, -1.0, 6.0, 0.0]);
        assert_eq!(packed.zero_values(), None);
        assert_eq!(packed.decode(), [-0.5, 0.5, 3.0, 5.0, 6.75, 6.5, 4.0, 0.0]);
        // Two words, four f16 scales, four 6-bit minimums and two f16 outer ones.
        assert_eq!(packed.storage_bits(), 2 * 32 + 4 * 16 + 4 * 6 + 2 * 16);
        // A minimum of no affine code, and one for the whole matrix.
        let minimums = Offsets::Minimums(Scales::Float(vec![10.0]));
        let text = scheme("int4/tensor/e8m0/min:f32");
        let packed = Packed::from_codes(text, [2, 1], &[0, 15], Scales::Float(vec![0.5]), minimums, None).unwrap();
        assert_eq!((packed.decode(), packed.minimums()), (vec![6.0, 13.5], Some(vec![10.0, 10.0])));
    }

    /// 300 rows of 5 columns in groups of 2, columns reversed: the strings by hand, one after the other.
    #[test]
    fn strings_decode_by_hand() {
        let (trellis, shape) = (Trellis::new(3, 9).unwrap(), [300, 5]);
        let groups = 300 * 3;
        let scales: Vec<f32> = (0..groups).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        // 900 bits are 28 words and 4 bits.
        let mut words: Vec<u32> = (0..5 * 29_u32).map(|i| i.wrapping_mul(0x9e37_79b1) ^ 0x5555).collect();
        words.iter_mut().skip(28).step_by(29).for_each(|word| *word &= 15);
        let parts = Parts {
            codes: words.clone(),
            scales: Scales::Float(scales.clone()),
            offsets: Offsets::None,
            order: Some(vec![4, 3, 2, 1, 0]),
        };
        let scheme = scheme("trellis3:9/2/f16");
        let packed = Packed::new(scheme, shape, parts.clone()).unwrap();
        let (codes, w) = (packed.codes(), packed.decode());
        for (j, words) in words.chunks_exact(29).enumerate() {
            for r in 0..300 {
                let window = trellis.window(words, 300, r);
                assert_eq!(u32::from(codes[r * 5 + j]), window);
                assert_eq!(w[r * 5 + 4 - j], scales[r * 3 + j / 2] * crate::trellis::level(window), "{r} {j}");
            }
        }
        assert_eq!(packed.storage_bits(), 5 * 29 * 32 + 16 * groups as u64 + 32 * 5);
        let again = Packed::from_codes(scheme, shape, &codes, parts.scales, None, parts.order);
        assert_eq!(again.as_ref(), Ok(&packed));
    }

    #[test]
    fn damaged_strings_are_refused() {
        use FormatError as E;
        let make = |text: &str, shape: [usize; 2], words: usize, last: u32| {
            let mut codes = vec![0; words];
            codes.iter_mut().next_back().into_iter().for_each(|word| *word = last);
            let scales = Scales::Float(vec![1.0]);
            Packed::new(scheme(text), shape, Parts { codes, scales, offsets: Offsets::None, order: None })
        };
        let text = "trellis2:12/tensor/f32";
        let code = scheme(text).code;
        assert!(make(text, [300, 2], 38, 0x00ff_ffff).is_ok());
        assert_eq!(make(text, [300, 2], 38, 0x0100_0000), Err(E::StringPadding { column: 1, row: 0 }));
        assert_eq!(make(text, [300, 2], 37, 0), Err(E::Length { part: "codes", expected: 38, found: 37 }));
        assert_eq!(make(text, [5, 2], 2, 0), Err(E::ShortString { code, rows: 5, least: 6 }));
        assert!(make(text, [6, 2], 2, 0).is_ok());
        let message = E::ShortString { code, rows: 5, least: 6 }.to_string();
        assert_eq!(message, "5 rows are too few for trellis2:12, whose windows go down 6 of them");
        let from = |windows: &[u16]| {
            Packed::from_codes(scheme(text), [6, 1], windows, Scales::Float(vec![1.0]), None, None).unwrap_err()
        };
        assert_eq!(from(&[0, 0, 0, 0, 0, 4]), E::Window { row: 5, column: 0, found: 4, expected: 0 });
        assert_eq!(
            from(&[0, 0, 0, 0, 0, 4]).to_string(),
            "codes: window 0x4 in row 5 of stored column 0 does not agree with its neighbours, which make it 0x0"
        );
        assert_eq!(from(&[0, 0, 0, 4096, 0, 0]), E::CodeRange { part: "codes", index: 3, value: 4096, bits: 12 });
        let nested = Scale::Nested { code, group: Group::Row, outer: crate::FloatKind::F32 };
        let nested = Scheme { scale: nested, ..scheme("int4/row/f32") };
        let scales = Scales::Nested { codes: vec![0], outer: vec![1.0] };
        assert_eq!(Packed::from_codes(nested, [1, 1], &[0], scales, None, None), Err(E::SharedBits { code }));
    }

    #[test]
    fn damaged_parts_are_refused() {
        use FormatError as E;
        let cases = [
            (error(|_, shape, _| shape[0] = 0), E::Shape { shape: [0, 5] }),
            (error(|_, shape, _| shape[1] = 0), E::Shape { shape: [2, 0] }),
            (error(|_, shape, _| shape[0] = usize::MAX), E::Shape { shape: [usize::MAX, 5] }),
            (error(|_, _, p| p.codes.truncate(1)), E::Length { part: "codes", expected: 2, found: 1 }),
            (error(|_, _, p| p.codes[1] |= 1 << 15), E::Padding { row: 1 }),
            (error(|_, _, p| p.codes[0] |= 1 << 31), E::Padding { row: 0 }),
            (
                error(|_, _, p| p.scales = Scales::Float(vec![1.0; 7])),
                E::Length { part: "scales", expected: 6, found: 7 },
            ),
            (
                error(|s, _, _| s.scale = "int8/row:f32".parse().unwrap()),
                E::ScaleForm { part: "scales", expected: "nested", found: "float" },
            ),
            (
                error(|_, _, p| p.scales = Scales::Nested { codes: vec![1; 6], outer: vec![1.0] }),
                E::ScaleForm { part: "scales", expected: "float", found: "nested" },
            ),
            (error(|_, _, p| p.offsets = Offsets::None), E::ZerosMissing { code: scheme("uint3/2/f16").code }),
            (
                error(|_, _, p| p.offsets = Offsets::Zeros(vec![0; 5])),
                E::Length { part: "zeros", expected: 6, found: 5 },
            ),
            (
                error(|_, _, p| p.offsets = Offsets::Zeros(vec![0, 0, 8, 0, 0, 0])),
                E::ZeroRange { index: 2, value: 8, bits: 3 },
            ),
            (
                error(|s, _, _| *s = scheme("int3/2/f16")),
                E::ZerosUnexpected { code: scheme("int3/2/f16").code, found: 6 },
            ),
            (
                error(|s, _, _| *s = scheme("uint3/2/f16/min:f16")),
                E::Minimums { expected: "minimums", found: "zero points" },
            ),
            (
                error(|_, _, p| p.offsets = Offsets::Minimums(Scales::Float(vec![0.0; 6]))),
                E::Minimums { expected: "none", found: "minimums" },
            ),
            (
                error(|s, _, p| {
                    *s = scheme("uint3/2/f16/min:f16");
                    p.offsets = Offsets::Minimums(Scales::Float(vec![0.0; 5]));
                }),
                E::Length { part: "minimums", expected: 6, found: 5 },
            ),
            (error(|_, _, p| p.order = Some(vec![0, 1, 2, 3])), E::Length { part: "order", expected: 5, found: 4 }),
            (error(|_, _, p| p.order = Some(vec![0, 1, 1, 3, 4])), E::Order { index: 2, column: 1, columns: 5 }),
            (error(|_, _, p| p.order = Some(vec![0, 1, 2, 3, 5])), E::Order { index: 4, column: 5, columns: 5 }),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn scales_must_be_finite_and_of_their_kind() {
        for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.1, "0.1"), (65536.0, "65536")] {
            let found = error(|_, _, p| p.scales = Scales::Float(vec![1.0, value, 1.0, 1.0, 1.0, 1.0]));
            assert_eq!(found.to_string(), format!("scales[1]: {shown} is not a finite f16 number"));
        }
        for value in [0.0, 3.0, -1.0, f32::INFINITY] {
            let found = error(|s, _, p| {
                s.scale = Scale::PowerOfTwo;
                p.scales = Scales::Float(vec![1.0, 0.5, value, 1.0, 1.0, 1.0]);
            });
            assert_eq!(found.to_string(), format!("scales[2]: {value} is not a finite e8m0 number"));
        }
        let nested = |codes: Vec<u16>, outer: Vec<f32>| {
            let scales = Scales::Nested { codes, outer };
            Packed::from_codes(scheme("int4/2/uint4/row:bf16"), [1, 4], &[0; 4], scales, None, None).unwrap_err()
        };
        let cases = [
            (nested(vec![1], vec![1.0]), "scale codes: expected 2 elements, found 1"),
            (nested(vec![1, 16], vec![1.0]), "scale codes[1]: code 16 does not fit in 4 bits"),
            (nested(vec![1, 2], vec![1.0, 2.0]), "outer scales: expected 1 elements, found 2"),
            (nested(vec![1, 2], vec![1.001]), "outer scales[0]: 1.001 is not a finite bf16 number"),
        ];
        for (found, expected) in cases {
            assert_eq!(found.to_string(), expected);
        }
    }

    #[test]
    fn no_weight_may_overflow() {
        let make = |text: &str, scales| Packed::from_codes(scheme(text), [1, 2], &[0, 0], scales, None, None);
        let large = Scales::Float(vec![f32::MAX]);
        assert!(make("nf4/row/f32", large.clone()).is_ok());
        assert_eq!(make("int4/row/f32", large), Err(FormatError::ScaleOverflow { index: 0, value: f32::MAX }));
        let (scales, minimums) = (Scales::Float(vec![2.0_f32.powi(127)]), Scales::Float(vec![f32::MAX]));
        let far = Packed::from_codes(
            scheme("nf4/row/f32/min:f32"),
            [1, 2],
            &[0, 0],
            scales,
            Offsets::Minimums(minimums),
            None,
        );
        assert!(matches!(far, Err(FormatError::ScaleOverflow { index: 0, .. })));
        let nested = Scales::Nested { codes: vec![15], outer: vec![f32::MAX] };
        assert!(matches!(make("nf4/row/uint4/row:f32", nested), Err(FormatError::ScaleOverflow { index: 0, .. })));
    }

    #[test]
    fn a_code_or_a_scheme_out_of_range_is_refused() {
        let make = |scheme: Scheme, codes: &[u16]| {
            Packed::from_codes(scheme, [1, 2], codes, Scales::Float(vec![1.0]), None, None).unwrap_err()
        };
        let int4 = scheme("int4/row/f16");
        assert_eq!(make(int4, &[3, 16]), FormatError::CodeRange { part: "codes", index: 1, value: 16, bits: 4 });
        assert_eq!(make(int4, &[3]), FormatError::Length { part: "codes", expected: 2, found: 1 });
        let code = crate::code::tests::slog(1, 3.0);
        assert_eq!(make(Scheme { code, ..int4 }, &[0, 0]), FormatError::NoMagnitude { code });
    }
}
