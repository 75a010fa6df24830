//! The codes of a matrix on another grid, as far as they have a place there.

use crate::{Code, FloatKind, Group, Offsets, Packed, Scale, Scales, Scheme};

impl Packed {
    /// The same codes under another scheme; `None` where that has no place for them.
    ///
    /// - integers go where their difference to the zero point is a level, so into every grid with more bits; between codes with
    ///   and without zero points too, where half of the range is 0
    /// - all other codes stay what they are
    /// - groups are cut into smaller ones, never joined
    /// - zero points become minimums, `-scale * zero`, and minimums stay minimums
    /// - scales and minimums are rounded to floats of their new kind, or stay as they are
    ///
    /// What it means is the same to the bit, unless a scale or a minimum had to be rounded. The order of columns stays.
    pub fn regrid(&self, to: Scheme) -> Option<Self> {
        let (from, shape) = (self.scheme(), self.shape());
        if from == to {
            return Some(self.clone());
        }
        let values = Values { packed: self, to };
        let (scales, groups) = (self.scale_values(), from.group.groups_per_row(shape[1]));
        let scales = values.scales(from.scale, &self.parts().scales, to.scale, &scales)?;
        let (codes, offsets) = match (from.code, to.code) {
            (from, to) if is_integer(from) && is_integer(to) => values.integers(groups)?,
            (from, to) if from == to => (self.codes(), values.minimums()?),
            _ => return None,
        };
        Self::from_codes(to, shape, &codes, scales, offsets, self.parts().order.clone()).ok()
    }
}

fn is_integer(code: Code) -> bool {
    matches!(code, Code::Int { .. } | Code::Affine { .. })
}

/// The code of 0 where it is the same everywhere.
fn half(code: Code) -> i32 {
    1 << (code.bits() - 1)
}

/// A matrix on its way to another scheme.
struct Values<'a> {
    packed: &'a Packed,
    to: Scheme,
}

impl Values<'_> {
    /// Integers as they are under the new scheme, and what its groups have beside their scales.
    fn integers(&self, groups: usize) -> Option<(Vec<u16>, Offsets)> {
        let Self { packed, to } = self;
        let (from, columns) = (packed.scheme(), packed.shape()[1]);
        let size = from.group.size(columns);
        let zeros = packed.zero_values();
        if from.minimum.is_some() {
            // The levels of a group are counted from its minimum, so a symmetric code has no other ones.
            let same = from.code.is_affine() == to.code.is_affine() && to.minimum.is_some();
            let fits = same && from.code.bits() <= to.code.bits();
            let up = if from.code.is_affine() { 0 } else { half(to.code) - half(from.code) };
            let codes = packed.codes().into_iter().map(|code| (i32::from(code) + up) as u16).collect();
            return fits.then_some((codes, self.minimums()?));
        }
        let zero = |row: usize, group: usize| match &zeros {
            Some(zeros) => zeros[row * groups + group] as i32,
            None => half(from.code),
        };
        // The zero point that a code is counted from now.
        let new_zero = |row: usize, group: usize| match (to.code.is_affine(), to.minimum, &zeros) {
            (true, Some(_), _) | (true, None, Some(_)) => zero(row, group),
            (true, None, None) | (false, ..) => half(to.code),
        };
        if !to.code.is_affine() && to.minimum.is_some() {
            return None;
        }
        let levels = packed.codes().into_iter().enumerate().map(|(i, code)| {
            let (row, group) = (i / columns, i % columns / size);
            let code = i32::from(code) - zero(row, group) + new_zero(row, group);
            u16::try_from(code).ok().filter(|code| usize::from(*code) < to.code.len())
        });
        let codes = levels.collect::<Option<Vec<u16>>>()?;
        let rows = if from.group == Group::Tensor { 1 } else { packed.shape()[0] };
        let all = (0..rows).flat_map(|row| (0..groups).map(move |group| (row, group)));
        let offsets = match to.minimum {
            Some(Scale::Float(kind)) => {
                let scales = packed.scale_values();
                let minimum = |(row, group): (usize, usize)| -scales[row * groups + group] * zero(row, group) as f32;
                Offsets::Minimums(self.floats(kind, all.map(minimum).collect())?)
            }
            Some(_) => return None,
            None if to.has_zeros() => {
                let zeros = all.map(|(row, group)| u16::try_from(new_zero(row, group)).ok());
                Offsets::Zeros(self.cut(zeros.collect::<Option<Vec<_>>>()?)?)
            }
            None => Offsets::None,
        };
        Some((codes, offsets))
    }

    /// Minimums of groups that had some; zero points of a code that stays what it is do not come here.
    fn minimums(&self) -> Option<Offsets> {
        let Self { packed, to } = self;
        match (packed.scheme().minimum, packed.parts().offsets.minimums(), to.minimum) {
            (None, None, None) => Some(Offsets::None),
            (Some(from), Some(minimums), Some(to)) => {
                let values = packed.minimums()?;
                self.scales(from, minimums, to, &values).map(Offsets::Minimums)
            }
            _ => None,
        }
    }

    /// Scales, or minimums, of all groups as the new scheme keeps them.
    fn scales(&self, from: Scale, kept: &Scales, to: Scale, values: &[f32]) -> Option<Scales> {
        if from == to && self.packed.scheme().group == self.to.group {
            return Some(kept.clone());
        }
        let values = match self.packed.scheme().group {
            Group::Tensor => vec![*values.first()?],
            Group::Row | Group::Columns(_) => values.to_vec(),
        };
        match to {
            Scale::Float(kind) => self.floats(kind, values),
            Scale::PowerOfTwo if from == to => self.cut(values).map(Scales::Float),
            Scale::PowerOfTwo | Scale::Nested { .. } => None,
        }
    }

    /// Values of groups, rounded to a kind of float.
    fn floats(&self, kind: FloatKind, values: Vec<f32>) -> Option<Scales> {
        self.cut(values.into_iter().map(|value| kind.round(value)).collect()).map(Scales::Float)
    }

    /// Values of groups, `[out, groups]` or `[1]`, repeated for the groups that these are cut into.
    fn cut<T: Copy>(&self, values: Vec<T>) -> Option<Vec<T>> {
        let ([rows, columns], from, to) = (self.packed.shape(), self.packed.scheme().group, self.to.group);
        if from == to {
            return Some(values);
        }
        let (size, new_size) = (from.size(columns), to.size(columns));
        let (groups, new_groups) = (from.groups_per_row(columns), to.groups_per_row(columns));
        if to == Group::Tensor || !(groups == 1 || size.is_multiple_of(new_size)) {
            return None;
        }
        let row_of = |row: usize| if from == Group::Tensor { 0 } else { row };
        let at = |row: usize, group: usize| values[row_of(row) * groups + group * new_size / size];
        Some((0..rows).flat_map(|row| (0..new_groups).map(move |group| (row, group))).map(|(r, g)| at(r, g)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of this scheme with codes and scales of all sizes.
    fn packed(scheme: &str, shape: [usize; 2]) -> Packed {
        let scheme: Scheme = scheme.parse().unwrap();
        let [rows, columns] = scheme.group.scale_shape(shape);
        let count = rows * columns;
        let codes: Vec<u16> = (0..shape[0] * shape[1]).map(|i| (i * 7 % scheme.code.len()) as u16).collect();
        let kept = |scale: Scale| match scale {
            Scale::Nested { code, group, outer } => Scales::Nested {
                codes: (0..count).map(|i| (i * 5 % code.len()) as u16).collect(),
                outer: vec![outer.round(0.01); group.scale_shape([rows, columns]).iter().product()],
            },
            Scale::Float(kind) => Scales::Float((0..count).map(|i| kind.round(0.3 + i as f32 / 7.0)).collect()),
            Scale::PowerOfTwo => Scales::Float((0..count).map(|i| 0.5_f32.powi(i as i32)).collect()),
        };
        let offsets = match scheme.minimum {
            Some(minimum) => Offsets::Minimums(kept(minimum)),
            None if scheme.has_zeros() => {
                Offsets::Zeros((0..count).map(|i| (i * 3 % scheme.code.len()) as u16).collect())
            }
            None => Offsets::None,
        };
        Packed::from_codes(scheme, shape, &codes, kept(scheme.scale), offsets, None).unwrap()
    }

    #[test]
    fn wider_integers_and_smaller_groups_mean_the_same() {
        let cases = [
            ("int3/32/f16", "int4/32/f16"),
            ("int3/32/f16", "uint4/32/f16"),
            ("uint3/32/f16", "uint4/16/f16"),
            ("uint3/32/f16", "int4/32/f16"),
            ("int4/64/f16", "int4/32/f16"),
            ("int4/row/f16", "uint8/16/f32"),
            ("int4/tensor/f16", "int4/row/f16"),
            ("uint4/tensor/f16", "uint4/32/f16"),
            ("int6/16/int8/16:f16", "int8/16/f32"),
            ("nf4/64/f16", "nf4/32/f32"),
            ("e2m1/32/e8m0", "e2m1/16/e8m0"),
            ("uint4/32/uint6/8:f16/min:uint6/8:f16", "uint4/32/f32/min:f32"),
            ("int4/32/f16/min:f16", "int5/16/f16/min:f16"),
            // A minimum of -8 scales is no rounding.
            ("int4/32/f16", "uint4/32/f16/min:f16"),
            // Groups of 24 end in a short one.
            ("int4/48/f16", "int4/24/f16"),
        ];
        for (from, to) in cases {
            let (before, to) = (packed(from, [3, 112]), to.parse().unwrap());
            let after = before.regrid(to).unwrap_or_else(|| panic!("{from} -> {to}"));
            assert_eq!((after.scheme(), after.decode()), (to, before.decode()), "{from} -> {to}");
        }
    }

    #[test]
    fn rounded_scales_and_minimums_are_near() {
        for (from, to, bound) in [
            ("int4/32/f32", "int4/32/f16", 6e-4),
            ("int6/16/int8/16:f16", "int8/16/f16", 6e-4),
            // 11 bits of the scale times 15, in 11 bits; against weights around 0.
            ("uint4/32/f16", "uint4/32/f16/min:f16", 2e-3),
        ] {
            let before = packed(from, [4, 96]);
            let (w, after) = (before.decode(), before.regrid(to.parse().unwrap()).unwrap().decode());
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let error = square(&mut w.iter().zip(&after).map(|(w, v)| w - v)) / square(&mut w.iter().copied());
            assert!(error.sqrt() > 0.0 && error.sqrt() < bound, "{from} -> {to}: {}", error.sqrt());
        }
    }

    #[test]
    fn what_has_no_place_is_left_where_it_is() {
        let cases = [
            ("int4/32/f16", "int3/32/f16"),
            ("int4/32/f16", "int4/64/f16"),
            ("int4/32/f16", "int4/24/f16"),
            ("int4/row/f16", "int4/tensor/f16"),
            ("int4/32/f16", "int4/32/uint6/8:f16"),
            ("int4/32/f16", "int4/32/e8m0"),
            ("int4/32/f16", "int4/32/f16/min:f16"),
            ("nf4/32/f16", "int4/32/f16"),
            ("uint4/32/f16/min:f16", "uint4/32/f16"),
            ("uint4/32/f16/min:f16", "int4/32/f16/min:f16"),
            ("uint4/32/f16", "int4/32/f16"),
        ];
        for (from, to) in cases {
            assert_eq!(packed(from, [3, 112]).regrid(to.parse().unwrap()), None, "{from} -> {to}");
        }
        // Codes that are all there have a place in a grid that has fewer.
        let codes: Vec<u16> = (0..32).map(|i| 5 + i % 6).collect();
        let few = Packed::from_codes(
            "int4/row/f16".parse().unwrap(),
            [2, 16],
            &codes,
            Scales::Float(vec![1.0; 2]),
            None,
            None,
        );
        let few = few.unwrap();
        assert_eq!(few.regrid("int3/row/f16".parse().unwrap()).unwrap().decode(), few.decode());
    }

    #[test]
    fn the_order_of_columns_stays() {
        let scheme: Scheme = "int3/2/f16".parse().unwrap();
        let order = Some(vec![3, 1, 0, 2]);
        let before =
            Packed::from_codes(scheme, [1, 4], &[0, 3, 5, 7], Scales::Float(vec![1.0, 2.0]), None, order.clone());
        let before = before.unwrap();
        let after = before.regrid("uint4/1/f16".parse().unwrap()).unwrap();
        assert_eq!((after.decode(), &after.parts().order), (before.decode(), &order));
    }
}
