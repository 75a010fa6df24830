//! Sentence encoders: sentences, each on its own.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use quench_checkpoint::Source;
use quench_eval::{Bootstrap, Candidate, EvalError, Measured, SentenceComparison, Task};
use quench_models::text::{Corpus, TextSource, sentences};
use quench_models::{Encoder, Kind, ModelError, Sentences, Tokenizer};
use quench_nn::Model;
use quench_quantize::Likelihood;
use quench_quantize::recipe::{Calibration, Evaluation};

use super::decoder::{checksum, sequences};
use super::{Inputs, Progress, Subject};
use crate::{CalibrationSize, JobError};

/// Sentences that are embedded between two looks at the progress.
const STEP: usize = 256;

/// Tasks, and what makes tokens of their texts.
pub(crate) struct Tasks {
    tasks: Vec<Task>,
    tokenizer: Tokenizer,
}

impl Subject for Encoder {
    type Tasks = Tasks;

    const LIKELIHOOD: Likelihood<Sentences> = Likelihood::Vectors(Sentences::pool);

    const KIND: Kind = Kind::Encoder;

    const DATA: &'static str = "text";

    fn from_folder(folder: &Path, device: &Device) -> Result<Self, JobError> {
        Ok(Encoder::open(folder, device)?)
    }

    fn architecture(&self) -> &'static str {
        "bert"
    }

    fn source(&self) -> &Arc<dyn Source> {
        Encoder::source(self)
    }

    fn context(&self) -> Option<usize> {
        None
    }

    /// The lines of the texts, each a sentence; of a task's file, its sentences.
    fn calibration(
        &self,
        folder: &Path,
        from: &[TextSource],
        settings: &Calibration,
        device: &Device,
    ) -> Result<Inputs<Sentences>, JobError> {
        let tokenizer = Tokenizer::open(folder)?;
        let length = settings.length.min(self.config().max_positions);
        let samples = sentences(&by_language(from)?, &tokenizer, settings.samples, length, settings.seed)?;
        let batches = samples.chunks(settings.batch).map(|batch| Sentences::new(&sequences(batch), device));
        Ok(Inputs {
            batches: batches.collect(),
            size: CalibrationSize::tokens("sentence", &samples),
            checksum: checksum(&samples),
        })
    }

    fn tasks(&self, folder: &Path, from: &[TextSource], _settings: &Evaluation) -> Result<Tasks, JobError> {
        let tokenizer = Tokenizer::open(folder)?;
        let mut tasks = Vec::new();
        for source in from {
            for path in &source.paths {
                let task = Task::read(path)?;
                tasks.push(match &source.language {
                    Some(name) => task.named(name),
                    None => task,
                });
            }
        }
        Ok(Tasks { tasks, tokenizer })
    }

    fn measure(
        dense: &mut Self,
        candidates: &mut [Candidate<'_, Self>],
        Tasks { tasks, tokenizer }: &Tasks,
        settings: &Evaluation,
        _device: &Device,
        progress: Progress<'_>,
    ) -> Result<Measured, JobError> {
        let steps = tasks.iter().map(|task| task.texts().len().div_ceil(STEP)).sum::<usize>();
        let (mut done, total) = (0, steps * (1 + candidates.len()));
        let mut vectors = |model: &mut Self| -> Result<Vec<Tensor<2>>, JobError> {
            model.load_all().map_err(ModelError::from)?;
            let mut vectors = Vec::with_capacity(tasks.len());
            for task in tasks {
                let mut parts = Vec::new();
                for texts in task.texts().chunks(STEP) {
                    parts.push(model.embed_texts(tokenizer, texts, settings.batch)?);
                    done += 1;
                    if let ControlFlow::Break(()) = progress(done, total) {
                        return Err(EvalError::Interrupted.into());
                    }
                }
                vectors.push(Tensor::cat(parts, 0));
            }
            Ok(vectors)
        };
        let reference = vectors(dense)?;
        let mut others = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            others.push((candidate.name.clone(), vectors(candidate.model)?));
        }
        let comparison = SentenceComparison::new(tasks, &reference, &others, &Bootstrap::default())?;
        Ok(Measured::Sentences(comparison))
    }
}

/// The sentences of each language, in the order in which the languages first appear.
fn by_language(from: &[TextSource]) -> Result<Vec<Corpus>, JobError> {
    let mut languages: Vec<Corpus> = Vec::new();
    for source in from {
        let mut sentences = Vec::new();
        for path in &source.paths {
            let ending = path.extension().and_then(|ending| ending.to_str());
            if matches!(ending, Some("csv" | "tsv")) {
                sentences.extend(Task::read(path)?.texts().into_iter().map(str::to_owned));
            } else {
                let texts = TextSource::new(path).read()?;
                let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
                sentences.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
            }
        }
        match languages.iter_mut().find(|corpus| corpus.language == source.language) {
            Some(corpus) => corpus.sentences.extend(sentences),
            None => languages.push(Corpus { language: source.language.clone(), sentences }),
        }
    }
    Ok(languages)
}
