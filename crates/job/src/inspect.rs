//! A look into a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use quench_checkpoint::dialect::{self, Dialect};
use quench_checkpoint::{Folder, Layer, Source};
use quench_quantize::Ledger;
use serde::Serialize;

use crate::JobError;
use crate::save::{self, GATES, LEDGER, RECIPE, elements};

/// What is in a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `"lsq"` for an `.lsq` file, `"quench"` for another checkpoint with packed layers in our dialect, the name of another
    /// tool's dialect (`"gptq"`, `"awq"`, `"compressed-tensors"`, `"bitsandbytes"`), `"dense"` otherwise.
    pub dialect: String,
    /// Every layer and every other tensor, in the order of their names.
    pub rows: Vec<Row>,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Parameters.
    pub parameters: u64,
    /// Bits per weight over the packed layers, as they lie in the file.
    pub bits_per_weight: Option<f64>,
    /// The same once they are decoded, where some are entropy-coded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoded_bits_per_weight: Option<f64>,
    /// Bits per parameter over everything.
    pub bits_per_parameter: f64,
    /// The name of the recipe, where the checkpoint says it.
    pub recipe: Option<String>,
    /// What the gates said, where the checkpoint says it.
    pub gates: Option<String>,
}

/// One layer or tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The name of the layer, or of the tensor if it is dense.
    pub layer: String,
    /// Its shape in weights.
    pub shape: Vec<usize>,
    /// The scheme, or the type of a dense tensor.
    pub scheme: String,
    /// Bits per weight with scales, zero points and order.
    pub bits_per_weight: f64,
    /// Signal-to-noise ratio of the weights in dB, where the checkpoint knows it.
    pub weight_snr_db: Option<f64>,
    /// Signal-to-noise ratio of the output on the calibration inputs in dB, where the checkpoint knows it.
    pub output_snr_db: Option<f64>,
    /// Bytes in the file.
    pub bytes: u64,
    /// Whether it is packed.
    pub packed: bool,
    /// Whether its codes are entropy-coded.
    pub entropy_coded: bool,
}

/// Reads the headers of a folder or of a single file; of another tool's dialect also the packed layers, since headers there do
/// not say all of how they are coded.
///
/// # Errors
/// [`JobError::Checkpoint`] if it is neither, or damaged.
pub fn inspect(path: &Path) -> Result<Inspection, JobError> {
    let source = if path.is_file() { Folder::open_file(path)? } else { Folder::open(path)? };
    let metadata = source.metadata();
    // A ledger that does not parse is one of another version; the table does without.
    let ledger: Ledger = metadata.get(LEDGER).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    // A bias beside a packed layer has a name like its parts, and is none of them.
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
    let mut foreign = None;
    for layer in dialect::layers(&source) {
        let Some(spelling) = Dialect::of(&source, &layer) else { continue };
        owners.extend(spelling.tensors(&source, &layer)?.into_iter().map(|part| (part, layer.clone())));
        let coded = match source.manifest().layers.get(&layer) {
            Some(coded) => Some(coded.clone()),
            None => {
                foreign = Some(spelling);
                let packed = dialect::read(&source, &layer)?;
                packed.map(|packed| Layer { scheme: packed.scheme(), shape: packed.shape() })
            }
        };
        layers.extend(coded.map(|coded| (layer, coded)));
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut decoded = 0;
    for name in source.names() {
        let Some(info) = source.info(name) else { continue };
        let owner = owners.get(name).map(String::as_str);
        let bytes = source.stored_bytes(name).unwrap_or(0);
        match owner.and_then(|layer| layers.get(layer).map(|coded| (layer, coded))) {
            Some((layer, coded)) => {
                let entry = ledger.last(layer);
                let row = rows.entry(layer.to_owned()).or_insert_with(|| Row {
                    layer: layer.to_owned(),
                    shape: coded.shape.to_vec(),
                    scheme: coded.scheme.to_string(),
                    bits_per_weight: 0.0,
                    weight_snr_db: entry.and_then(|entry| entry.weight_snr_db),
                    output_snr_db: entry.and_then(|entry| entry.output_snr_db()),
                    bytes: 0,
                    packed: true,
                    entropy_coded: false,
                });
                row.bytes += bytes;
                let coded = source.manifest().coded.contains(name);
                row.entropy_coded |= coded;
                decoded += if coded { save::bytes(&info) } else { bytes };
            }
            None => {
                rows.insert(
                    name.to_owned(),
                    Row {
                        layer: name.to_owned(),
                        shape: info.shape.clone(),
                        scheme: info.dtype.to_string().to_lowercase(),
                        bits_per_weight: 0.0,
                        weight_snr_db: None,
                        output_snr_db: None,
                        bytes,
                        packed: false,
                        entropy_coded: false,
                    },
                );
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| natural(&row.layer));
    for row in &mut rows {
        row.bits_per_weight = bits(row.bytes, elements(&row.shape));
    }
    let total = |packed_only: bool| {
        let of = rows.iter().filter(|row| row.packed || !packed_only);
        of.fold((0, 0), |(bytes, count), row| (bytes + row.bytes, count + elements(&row.shape)))
    };
    let ((bytes, parameters), (packed_bytes, packed)) = (total(false), total(true));
    Ok(Inspection {
        dialect: match (source.is_lsq(), foreign, layers.is_empty()) {
            (true, ..) => "lsq".to_owned(),
            (_, Some(dialect), _) => dialect.to_string(),
            (.., false) => "quench".to_owned(),
            (.., true) => "dense".to_owned(),
        },
        bytes,
        parameters,
        bits_per_weight: (packed > 0).then(|| bits(packed_bytes, packed)),
        decoded_bits_per_weight: rows.iter().any(|row| row.entropy_coded).then(|| bits(decoded, packed)),
        bits_per_parameter: bits(bytes, parameters),
        recipe: metadata.get(RECIPE).cloned(),
        gates: metadata.get(GATES).cloned(),
        rows,
    })
}

fn bits(bytes: u64, parameters: u64) -> f64 {
    8.0 * bytes as f64 / parameters.max(1) as f64
}

/// A key by which `layers.2` comes before `layers.10`.
fn natural(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|word| (word.parse().unwrap_or(u64::MAX), word.to_owned())).collect()
}
