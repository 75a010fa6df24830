//! What the tests of several files need.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use quench_format::{Offsets, Packed, Parts, Scale, Scales, Scheme, bits};

use crate::native::NamedTensor;
use crate::shard::{Shard, Slot};
use crate::{Layer, TensorInfo};

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let name = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// SplitMix64 (Steele, Lea and Flood 2014): numbers that are the same everywhere.
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.step() % limit as u64) as usize
    }
}

/// A matrix of random codes, scales, zeros and, if `ordered`, column order.
pub fn packed(scheme: &str, shape: [usize; 2], ordered: bool, seed: u64) -> Packed {
    let mut random = Random(seed);
    let scheme: Scheme = scheme.parse().unwrap_or_else(|error| panic!("{scheme}: {error}"));
    let area = |[rows, columns]: [usize; 2]| rows * columns;
    let mut codes =
        |count, limit: usize| -> Vec<u16> { (0..count).map(|_| random.below(limit).try_into().unwrap()).collect() };
    let grid = scheme.group.scale_shape(shape);
    let floats = |raw: Vec<u16>, kind: quench_format::FloatKind| {
        raw.into_iter().map(|raw| kind.round((1.0 + f32::from(raw)) / 997.0)).collect()
    };
    let mut kept = |scale| match scale {
        Scale::Float(kind) => Scales::Float(floats(codes(area(grid), 1000), kind)),
        Scale::PowerOfTwo => {
            Scales::Float(codes(area(grid), 40).into_iter().map(|raw| 2.0_f32.powi(i32::from(raw) - 30)).collect())
        }
        Scale::Nested { code, group, outer } => Scales::Nested {
            codes: codes(area(grid), code.len()),
            outer: floats(codes(area(group.scale_shape(grid)), 1000), outer),
        },
    };
    let scales = kept(scheme.scale);
    let minimums = scheme.minimum.map(kept);
    let offsets = match minimums {
        Some(minimums) => Offsets::Minimums(minimums),
        None => scheme.has_zeros().then(|| codes(area(grid), scheme.code.len())).into(),
    };
    let strings = scheme.code.strings(shape);
    let codes = codes(area(shape), if strings.is_some() { 1 << scheme.code.bits() } else { scheme.code.len() });
    let order = ordered.then(|| {
        let mut order: Vec<u32> = (0..shape[1] as u32).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        order
    });
    let Some(strings) = strings else {
        return Packed::from_codes(scheme, shape, &codes, scales, offsets, order).unwrap();
    };
    // Any bits are a string, where any windows are not.
    let (mut words, mut own) = (vec![0; strings.words()], &codes[..]);
    for band in 0..strings.bands() {
        for column in 0..shape[1] {
            let (string, rest) = own.split_at(strings.rows(band).len());
            bits::pack_row(string, scheme.code.bits(), &mut words[strings.string(band, column)]);
            own = rest;
        }
    }
    Packed::new(scheme, shape, Parts { codes: words, scales, offsets, order }).unwrap()
}

/// The bytes of a safetensors file with any tensors and layers, whether they fit or not, and right checksums.
pub fn forge(layers: &[(&str, Layer)], tensors: &[NamedTensor]) -> Vec<u8> {
    forge_coded(layers, &[], tensors)
}

/// As [`forge`], with tensors that are said to be entropy-coded.
pub fn forge_coded(layers: &[(&str, Layer)], coded: &[&str], tensors: &[NamedTensor]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let slot = |tensor: &NamedTensor| {
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
        Slot::new(tensor.name.clone(), info).unwrap()
    };
    let layers = layers.iter().map(|(name, layer)| ((*name).to_owned(), layer.clone())).collect();
    let coded = coded.iter().map(|name| (*name).to_owned()).collect();
    let slots: Vec<_> = tensors.iter().map(slot).collect();
    let mut shard = Shard::start(&mut file, "forged".into(), slots.clone(), layers, coded, &BTreeMap::new()).unwrap();
    for (slot, tensor) in slots.iter().zip(tensors) {
        shard.write(slot, &tensor.bytes).unwrap();
    }
    shard.seal().unwrap();
    file.into_inner()
}
