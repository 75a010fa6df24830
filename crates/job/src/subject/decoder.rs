//! Language models: running text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};
use quench_checkpoint::Source;
use quench_eval::{Candidate, Measured, Options, Protocol, Text, compare};
use quench_models::text::{Sample, TextSource, sample};
use quench_models::{Decoder, Kind, TIED, TURNED_MLP, Tokenizer, ids};
use quench_quantize::recipe::{Calibration, Evaluation, Transform};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Inputs, Progress, Subject};
use crate::{CalibrationSize, JobError};

/// Texts as tokens, and how they are cut.
pub(crate) struct Texts {
    texts: Vec<Text>,
    protocol: Protocol,
    bos: Option<u32>,
}

impl Subject for Decoder {
    type Tasks = Texts;

    const KIND: Kind = Kind::Decoder;

    const DATA: &'static str = "text";

    const TRANSFORMS: &'static [Transform] = &[
        Transform::RotateResidual,
        Transform::RotateHeads,
        Transform::RotateMlp,
        Transform::Awq,
        Transform::SmoothQuant,
    ];

    fn from_folder(folder: &Path, device: &Device) -> Result<Self, JobError> {
        Ok(quench_models::open(folder, device)?)
    }

    fn architecture(&self) -> &'static str {
        self.config().family.name()
    }

    fn source(&self) -> &Arc<dyn Source> {
        Decoder::source(self)
    }

    fn transform(&mut self, transform: Transform) -> Result<bool, JobError> {
        Ok(match transform {
            Transform::RotateResidual => self.turn_residual()?,
            Transform::RotateHeads => self.turn_heads()?,
            Transform::RotateMlp => self.turn_mlp()?,
            Transform::FoldBatchNorms | Transform::Awq | Transform::SmoothQuant => false,
        })
    }

    fn rescale(&mut self, factors: &BTreeMap<String, Vec<f32>>) -> Result<(), JobError> {
        Ok(Decoder::rescale(self, factors)?)
    }

    fn marks(&self) -> Vec<(&'static str, Value)> {
        let config = self.config();
        let turned = config.turned_mlp.then_some((TURNED_MLP, Value::Bool(true)));
        let apart = (!config.tied).then_some((TIED, Value::Bool(false)));
        apart.into_iter().chain(turned).collect()
    }

    fn context(&self) -> Option<usize> {
        Some(self.config().max_positions)
    }

    fn calibration(
        &self,
        folder: &Path,
        from: &[TextSource],
        settings: &Calibration,
        device: &Device,
    ) -> Result<Inputs<Tensor<2, Int>>, JobError> {
        let tokenizer = Tokenizer::open(folder)?;
        let length = settings.length.min(self.config().max_positions);
        let samples = sample(from, &tokenizer, settings.samples, length, settings.seed)?;
        let batches = samples.chunks(settings.batch).map(|batch| ids(&sequences(batch), device));
        Ok(Inputs {
            batches: batches.collect(),
            size: CalibrationSize::tokens("sequence", &samples),
            checksum: checksum(&samples),
        })
    }

    fn tasks(&self, folder: &Path, from: &[TextSource], settings: &Evaluation) -> Result<Texts, JobError> {
        let tokenizer = Tokenizer::open(folder)?;
        let mut texts: Vec<Text> = Vec::new();
        for source in from {
            let mut sequences = Vec::new();
            for text in source.read()? {
                sequences.push(tokenizer.encode(&text, false)?);
            }
            match texts.iter_mut().find(|text| text.language == source.language) {
                Some(text) => text.sequences.extend(sequences),
                None => texts.push(Text { language: source.language.clone(), sequences }),
            }
        }
        for text in &texts {
            let tokens = text.sequences.iter().map(Vec::len).max().unwrap_or(0);
            if tokens < 2 {
                return Err(JobError::NothingToEvaluate { language: text.language.clone(), tokens });
            }
        }
        let protocol = Protocol {
            length: settings.length,
            stride: settings.stride,
            windows: Some(settings.windows),
            bos: tokenizer.adds_bos(),
        };
        Ok(Texts { texts, protocol, bos: tokenizer.bos() })
    }

    fn measure(
        dense: &mut Self,
        candidates: &mut [Candidate<'_, Self>],
        tasks: &Texts,
        settings: &Evaluation,
        device: &Device,
        progress: Progress<'_>,
    ) -> Result<Measured, JobError> {
        let options = Options { protocol: tasks.protocol, bos: tasks.bos, batch: settings.batch, ..Options::default() };
        Ok(Measured::Texts(compare(dense, candidates, &tasks.texts, &options, device, progress)?))
    }
}

/// The ids of samples.
pub(super) fn sequences(samples: &[Sample]) -> Vec<&[u32]> {
    samples.iter().map(|sample| sample.ids.as_slice()).collect()
}

/// Of the ids, with their lengths.
pub(super) fn checksum(samples: &[Sample]) -> Sha256 {
    let mut checksum = Sha256::new();
    for sample in samples {
        checksum.update((sample.ids.len() as u64).to_le_bytes());
        sample.ids.iter().for_each(|id| checksum.update(id.to_le_bytes()));
    }
    checksum
}
