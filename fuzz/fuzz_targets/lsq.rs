//! Any bytes as an `.lsq` file: they are read or refused, and whatever is read decodes to finite weights.
//!
//! The first byte says whether the header's checksum is put right, since no fuzzer finds a SHA-256 by itself; that takes
//! the length in the head at its word where the bytes allow it.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use quench_checkpoint::lsq::{HEAD_BYTES, LSQ_VERSION, LSQ_WEIGHTS, MAGIC};
use quench_checkpoint::{Folder, Sha256Sum, Source, native};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let mut bytes = rest.to_vec();
    if first % 4 != 0 {
        mend(&mut bytes);
    }
    let Ok(folder) = tempfile::tempdir() else { return };
    if fs::write(folder.path().join(LSQ_WEIGHTS), &bytes).is_err() {
        return;
    }
    let Ok(source) = Folder::open(folder.path()) else { return };
    for name in source.names() {
        assert!(source.info(name).is_some());
        if let Ok(view) = source.tensor(name) {
            let _ = view.to_finite_f32();
        }
    }
    for layer in source.manifest().layers.keys() {
        if let Ok(Some(packed)) = native::read(&source, layer) {
            assert!(packed.decode().iter().all(|weight| weight.is_finite()), "{layer}");
        }
    }
});

/// Makes the first 56 bytes those of a file with this header.
fn mend(bytes: &mut [u8]) {
    let head = HEAD_BYTES as usize;
    if bytes.len() < head {
        return;
    }
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&LSQ_VERSION.to_le_bytes());
    bytes[12..16].fill(0);
    let mut length = [0; 8];
    length.copy_from_slice(&bytes[16..24]);
    let text = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX).min(bytes.len() - head);
    bytes[16..24].copy_from_slice(&(text as u64).to_le_bytes());
    let sum = Sha256Sum::of(&bytes[head..head + text]).bytes();
    bytes[24..head].copy_from_slice(&sum);
}
