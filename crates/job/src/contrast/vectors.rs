//! Vectors from files: NumPy's `.npy`, and safetensors.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use quench_checkpoint::{Folder, Source};

use super::Clouds;
use crate::JobError;

/// Whether a path is a file of vectors and no model: a model is a folder, or a file of another kind.
pub(super) fn are_meant(path: &Path) -> bool {
    path.is_file() && ending(path).is_some()
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str()).filter(|ending| matches!(*ending, "npy" | "safetensors"))
}

/// The matrices of two files: the one of a `.npy`, or those of one name.
pub(super) fn read(reference: &Path, approximation: &Path, device: &Device) -> Result<Vec<Clouds>, JobError> {
    let (mut x, mut y) = (matrices(reference, device)?, matrices(approximation, device)?);
    // A file with one matrix needs no names.
    if let ([(site, _)], [(other, _)]) = (&x[..], &mut y[..]) {
        other.clone_from(site);
    }
    let mut clouds = Vec::new();
    for (site, x) in x.drain(..) {
        if let Some(at) = y.iter().position(|(other, _)| *other == site) {
            clouds.push(Clouds { site, sides: [x, y.swap_remove(at).1], sequences: Vec::new() });
        }
    }
    if clouds.is_empty() {
        let why = format!("no matrix has the name of one in {}", approximation.display());
        return Err(JobError::Vectors { path: reference.to_owned(), why });
    }
    Ok(clouds)
}

fn matrices(path: &Path, device: &Device) -> Result<Vec<(String, Tensor<2>)>, JobError> {
    let wrong = |why: &str| JobError::Vectors { path: path.to_owned(), why: why.to_owned() };
    let matrix = |values: Vec<f32>, shape: [usize; 2]| Tensor::from_data(TensorData::new(values, shape), device);
    match ending(path) {
        Some("npy") => {
            let bytes = fs::read(path).map_err(|source| JobError::Read { path: path.to_owned(), source })?;
            let (values, shape) = npy(&bytes).map_err(wrong)?;
            let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            Ok(vec![(name, matrix(values, shape))])
        }
        Some(_) => {
            let file = Folder::open_file(path)?;
            let mut found = Vec::new();
            for name in file.names() {
                if let Some([rows, columns]) = file.info(name).map(|info| info.shape).as_deref()
                    && rows * columns > 0
                {
                    found.push((name.to_owned(), matrix(file.tensor(name)?.to_f32()?, [*rows, *columns])));
                }
            }
            if found.is_empty() { Err(wrong("it has no matrix, a row for each vector")) } else { Ok(found) }
        }
        None => Err(wrong("vectors are read from .npy and .safetensors; give two files of vectors, or two models")),
    }
}

/// A matrix of floats in NumPy's format, row by row.
///
/// Source: `docs/references.md#npy`.
fn npy(bytes: &[u8]) -> Result<(Vec<f32>, [usize; 2]), &'static str> {
    const SHORT: &str = "the file is truncated";
    let (magic, rest) = bytes.split_at_checked(8).ok_or(SHORT)?;
    if !magic.starts_with(b"\x93NUMPY") {
        return Err("this is no file of NumPy");
    }
    let (length, rest) = match magic[6] {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        _ => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
    }
    .ok_or(SHORT)?;
    let (header, data) = rest.split_at_checked(length).ok_or(SHORT)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is no text")?;
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, value)| value.trim_start());
    if !value("fortran_order").is_some_and(|value| value.starts_with("False")) {
        return Err("its values are column by column; save it in C order");
    }
    let shape = value("shape").and_then(|value| value.strip_prefix('(')?.split_once(')')).ok_or("it has no shape")?.0;
    let sizes: Vec<usize> =
        shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map_while(|size| size.parse().ok()).collect();
    let [rows, columns] = sizes[..] else { return Err("it is no matrix, a row for each vector") };
    let values: Vec<f32> = match value("descr").and_then(|value| value.get(1..4)) {
        Some("<f4") => data.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect(),
        Some("<f8") => data.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x) as f32).collect(),
        _ => return Err("its values are neither float32 nor float64, least significant byte first"),
    };
    let count = rows.checked_mul(columns).ok_or(SHORT)?;
    match values.len() == count && count > 0 {
        true => Ok((values, [rows, columns])),
        false => Err("it has not as many values as its shape says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn matrices_of_numpy_are_read_or_refused() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let data: Vec<u8> = (1..=6).flat_map(|x| (x as f32).to_le_bytes()).collect();
        assert_eq!(npy(&file(header, &data)), Ok((vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])));
        let wide: Vec<u8> = (1..=6).flat_map(|x| f64::from(x).to_le_bytes()).collect();
        assert_eq!(npy(&file(&header.replace("<f4", "<f8"), &wide)).unwrap().1, [2, 3]);
        for (changed, why) in [
            (header.replace("False", "True"), "C order"),
            (header.replace("<f4", "<i4"), "float32"),
            (header.replace("(2, 3)", "(6,)"), "no matrix"),
            (header.replace("(2, 3)", "(2, 4)"), "as many values"),
            (header.replace("(2, 3)", "(0, 3)"), "as many values"),
        ] {
            let error = npy(&file(&changed, &data)).unwrap_err();
            assert!(error.contains(why), "{changed}: {error}");
        }
        for bytes in [&b"abc"[..], b"PK\x03\x04 no numpy", &file(header, &data)[..20]] {
            assert!(npy(bytes).is_err());
        }
    }
}
