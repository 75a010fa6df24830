//! Image classifiers: images, for measuring in one folder per class.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use quench_checkpoint::Source;
use quench_eval::{Bootstrap, Candidate, Classification, EvalError, Labelled, Measured};
use quench_models::text::TextSource;
use quench_models::{FOLDED, Kind, ModelError, ResNet, image_files};
use quench_nn::Model;
use quench_quantize::recipe::{Calibration, Evaluation, Transform};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Inputs, Progress, Subject};
use crate::{CalibrationSize, JobError};

impl Subject for ResNet {
    type Tasks = Labelled;

    const KIND: Kind = Kind::ResNet;

    const DATA: &'static str = "images";

    const TRANSFORMS: &'static [Transform] = &[Transform::FoldBatchNorms];

    fn from_folder(folder: &Path, device: &Device) -> Result<Self, JobError> {
        Ok(ResNet::open(folder, device)?)
    }

    fn architecture(&self) -> &'static str {
        "resnet"
    }

    fn source(&self) -> &Arc<dyn Source> {
        ResNet::source(self)
    }

    fn transform(&mut self, _: Transform) -> Result<bool, JobError> {
        let folds = !self.config().folded;
        self.fold()?;
        Ok(folds)
    }

    fn marks(&self) -> Vec<(&'static str, Value)> {
        if self.config().folded { vec![(FOLDED, Value::Bool(true))] } else { Vec::new() }
    }

    fn context(&self) -> Option<usize> {
        None
    }

    /// Images from anywhere below the folders; fewer than asked for where there are no more.
    fn calibration(
        &self,
        _folder: &Path,
        from: &[TextSource],
        settings: &Calibration,
        device: &Device,
    ) -> Result<Inputs<Tensor<4>>, JobError> {
        let mut files: Vec<PathBuf> = Vec::new();
        for path in from.iter().flat_map(|source| &source.paths) {
            files.extend(image_files(path)?);
        }
        files.shuffle(&mut ChaCha8Rng::seed_from_u64(settings.seed));
        files.truncate(settings.samples);
        let (mut batches, mut checksum) = (Vec::new(), Sha256::new());
        for batch in files.chunks(settings.batch) {
            batches.push(self.config().input.read_images(batch, device)?);
        }
        for path in &files {
            let bytes = std::fs::read(path).map_err(|source| JobError::Read { path: path.clone(), source })?;
            checksum.update((bytes.len() as u64).to_le_bytes());
            checksum.update(bytes);
        }
        Ok(Inputs { batches, size: CalibrationSize::images(files.len()), checksum })
    }

    fn tasks(&self, _folder: &Path, from: &[TextSource], _settings: &Evaluation) -> Result<Labelled, JobError> {
        let config = self.config();
        let mut folders = from.iter().flat_map(|source| &source.paths);
        match (folders.next(), folders.next()) {
            (Some(folder), None) => Ok(Labelled::read(folder, &config.labels, config.classes)?),
            (_, second) => Err(JobError::ImageFolders { second: second.cloned() }),
        }
    }

    fn measure(
        dense: &mut Self,
        candidates: &mut [Candidate<'_, Self>],
        images: &Labelled,
        settings: &Evaluation,
        device: &Device,
        progress: Progress<'_>,
    ) -> Result<Measured, JobError> {
        dense.load_all().map_err(ModelError::from)?;
        for candidate in candidates.iter_mut() {
            candidate.model.load_all().map_err(ModelError::from)?;
        }
        let names = candidates.iter().map(|candidate| candidate.name.clone());
        let mut scores = Classification::new(dense.config().classes, names);
        let total = images.images.len().div_ceil(settings.batch);
        for (index, batch) in images.images.chunks(settings.batch).enumerate() {
            let (paths, labels): (Vec<&PathBuf>, Vec<usize>) = batch.iter().map(|(path, label)| (path, *label)).unzip();
            let x = dense.config().input.read_images(&paths, device)?;
            let others: Vec<Tensor<2>> =
                candidates.iter().map(|candidate| candidate.model.classify(x.clone())).collect();
            scores.add(&labels, dense.classify(x), &others)?;
            if let ControlFlow::Break(()) = progress(index + 1, total) {
                return Err(EvalError::Interrupted.into());
            }
        }
        Ok(Measured::Images(scores.finish(&Bootstrap::default())))
    }
}
