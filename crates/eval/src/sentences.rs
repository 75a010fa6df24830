//! Vectors of sentences: what they are good for, and how far they have moved.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData};
use quench_metrics::{Bootstrap, Interval, Neighbours, beyond_chance, cosines, spearman, unit};
use serde::{Deserialize, Serialize};

use crate::compare::DENSE;
use crate::images::estimate;
use crate::probe::Answer;
use crate::{EvalError, Judgements, Statements};

/// Neighbours of each text that are compared.
const NEIGHBOURS: usize = 10;

/// Something that vectors of texts are good for.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Similarity of pairs, as Spearman's correlation with people's scores.
    Pairs(Judgements),
    /// Classes of texts, as the accuracy of a linear probe.
    Probe(Statements),
}

impl Task {
    /// Reads a task: a folder as a probe ([`Statements::read`]), a file as pairs ([`Judgements::read`]).
    ///
    /// # Errors
    ///
    /// As those readers.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        if path.is_dir() { Statements::read(path).map(Self::Probe) } else { Judgements::read(path).map(Self::Pairs) }
    }

    /// Every n-th pair or text, the first included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn every(&self, n: usize) -> Self {
        match self {
            Self::Pairs(judgements) => Self::Pairs(judgements.every(n)),
            Self::Probe(statements) => Self::Probe(statements.every(n)),
        }
    }

    /// The task under another name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        match &mut self {
            Self::Pairs(judgements) => judgements.name = name.into(),
            Self::Probe(statements) => statements.name = name.into(),
        }
        self
    }

    /// The name of its file without the ending, or of its folder, unless it was given another.
    pub fn name(&self) -> &str {
        match self {
            Self::Pairs(judgements) => judgements.name(),
            Self::Probe(statements) => statements.name(),
        }
    }

    /// The texts whose vectors it needs, each once.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Pairs(judgements) => judgements.texts(),
            Self::Probe(statements) => statements.texts(),
        }
    }

    /// What its score is.
    pub fn measure(&self) -> Measure {
        match self {
            Self::Pairs(_) => Measure::Spearman,
            Self::Probe(_) => Measure::Accuracy,
        }
    }

    /// The score of one model.
    ///
    /// - `vectors`: one for each of [`texts`](Self::texts), `[texts, width]`
    ///
    /// # Errors
    ///
    /// If a vector is zero or not finite, naming its text; if there is nothing to correlate.
    ///
    /// # Panics
    ///
    /// If there is another number of vectors than texts.
    pub fn score(&self, vectors: &Tensor<2>) -> Result<f64, EvalError> {
        Ok(self.outcome(DENSE, vectors)?.score())
    }

    /// What one model makes of each pair, or of each text that is asked about.
    fn outcome(&self, model: &str, vectors: &Tensor<2>) -> Result<Outcome, EvalError> {
        let texts = self.texts();
        assert_eq!(vectors.dims()[0], texts.len(), "one vector is due for each of {} texts", texts.len());
        let squares = vectors.clone().square().sum_dim(1).into_data().convert::<f32>();
        if let Some(at) = squares.iter::<f32>().position(|square| !(square > 0.0 && square.is_finite())) {
            return Err(EvalError::Vector {
                model: model.to_owned(),
                task: self.name().to_owned(),
                text: texts[at].to_owned(),
            });
        }
        match self {
            Self::Pairs(judgements) => {
                let score = judgements.spearman(vectors)?;
                Ok(Outcome::Pairs { score, people: judgements.scores(), cosines: judgements.cosines(vectors) })
            }
            Self::Probe(statements) => Ok(Outcome::Probe(statements.answers(vectors))),
        }
    }
}

/// What a model made of a task.
enum Outcome {
    Pairs { score: f64, people: Vec<f64>, cosines: Vec<f64> },
    Probe(Vec<Answer>),
}

impl Outcome {
    fn score(&self) -> f64 {
        match self {
            Self::Pairs { score, .. } => *score,
            Self::Probe(answers) => answers.iter().filter(|answer| answer.right).count() as f64 / answers.len() as f64,
        }
    }

    fn interval(&self, bootstrap: &Bootstrap) -> Option<Interval> {
        match self {
            Self::Pairs { people, cosines, .. } => {
                bootstrap.interval(people.len(), |drawn| spearman(&pick(people, drawn), &pick(cosines, drawn)))
            }
            Self::Probe(answers) => estimate(bootstrap, answers.iter().map(right)).1,
        }
    }

    /// The score beside that of the dense model.
    fn change(&self, dense: &Self, bootstrap: &Bootstrap) -> TaskChange {
        let (score, change) = (self.score(), self.score() - dense.score());
        match (self, dense) {
            (Self::Probe(answers), Self::Probe(dense)) => {
                let same = answers.iter().zip(dense).map(|(a, b)| f64::from(u8::from(a.class == b.class)));
                let (agreement, agreement_interval) = estimate(bootstrap, same);
                let changes = answers.iter().zip(dense).map(|(a, b)| right(a) - right(b));
                let change_interval = estimate(bootstrap, changes).1;
                TaskChange { score, change, change_interval, agreement: Some(agreement), agreement_interval }
            }
            (Self::Pairs { people, cosines, .. }, Self::Pairs { cosines: dense, .. }) => {
                let change_interval = bootstrap.interval(people.len(), |drawn| {
                    let people = pick(people, drawn);
                    Some(spearman(&people, &pick(cosines, drawn))? - spearman(&people, &pick(dense, drawn))?)
                });
                TaskChange { score, change, change_interval, agreement: None, agreement_interval: None }
            }
            _ => unreachable!("both models did the same task"),
        }
    }
}

fn right(answer: &Answer) -> f64 {
    f64::from(u8::from(answer.right))
}

fn pick(values: &[f64], drawn: &[usize]) -> Vec<f64> {
    drawn.iter().map(|index| values[*index]).collect()
}

/// A dense model and the candidates compared with it, by their vectors of the same texts.
///
/// Intervals are bootstrap intervals over pairs or texts; what compares two models is paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceComparison {
    /// The tasks, with the scores of the dense model.
    pub tasks: Vec<TaskScore>,
    /// Each candidate against the dense model, in the order given.
    pub candidates: Vec<SentenceScore>,
}

/// What the score of a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Spearman's correlation with people's scores, -1 to 1.
    Spearman,
    /// Share of the texts that a linear probe classifies right, 0 to 1.
    Accuracy,
}

/// The dense model at one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// The task's name.
    pub name: String,
    /// What the score is.
    pub measure: Measure,
    /// Pairs, or texts that were asked about.
    pub n: usize,
    /// The dense model's score.
    pub score: f64,
    /// Interval of `score`.
    pub interval: Option<Interval>,
}

/// A candidate against the dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceScore {
    /// The candidate's name.
    pub name: String,
    /// Its scores, in the order of the tasks.
    pub tasks: Vec<TaskChange>,
    /// How far its vectors are from the dense model's.
    pub vectors: VectorScore,
}

/// A candidate at one task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskChange {
    /// Its score.
    pub score: f64,
    /// Its score minus the dense model's.
    pub change: f64,
    /// Interval of `change`.
    pub change_interval: Option<Interval>,
    /// Share of the texts on which its probe says what the dense model's says; `None` for pairs.
    pub agreement: Option<f64>,
    /// Interval of `agreement`.
    pub agreement_interval: Option<Interval>,
}

/// Vectors of a candidate beside those of the dense model: of the distinct texts of all pairs, or of all probes if there
/// are no pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorScore {
    /// How many texts there are.
    pub texts: usize,
    /// Mean cosine between the two vectors of a text.
    pub cosine: f64,
    /// Interval of `cosine`.
    pub cosine_interval: Option<Interval>,
    /// `None` for fewer than 12 texts, among which 10 neighbours say nothing.
    pub neighbours: Option<NeighbourScore>,
}

/// Whether each text has kept its 10 nearest neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeighbourScore {
    /// Mean share of a text's neighbours, by cosine, that are its neighbours in the dense model as well.
    pub overlap: f64,
    /// Interval of `overlap`.
    pub interval: Option<Interval>,
    /// `(overlap − c) / (1 − c)` with `c = 10 / (texts − 1)`, what unrelated vectors have: 0 for those, 1 for equal ones.
    pub beyond_chance: f64,
}

impl SentenceComparison {
    /// Scores the dense model and every candidate at all tasks, and each candidate's vectors against the dense model's.
    ///
    /// - `dense`: for each task, a vector for each of its [`texts`](Task::texts), `[texts, width]`
    /// - `candidates`: the same of each candidate, with its name
    ///
    /// # Errors
    ///
    /// If a vector is zero or not finite, naming the model and its text; if there is nothing to correlate.
    ///
    /// # Panics
    ///
    /// If there is no task, or there are other vectors than those of the tasks' texts.
    pub fn new(
        tasks: &[Task],
        dense: &[Tensor<2>],
        candidates: &[(String, Vec<Tensor<2>>)],
        bootstrap: &Bootstrap,
    ) -> Result<Self, EvalError> {
        assert!(!tasks.is_empty(), "no task");
        let outcomes = |name: &str, vectors: &[Tensor<2>]| -> Result<Vec<Outcome>, EvalError> {
            assert_eq!(vectors.len(), tasks.len(), "{name}: vectors are due for each task");
            tasks.iter().zip(vectors).map(|(task, vectors)| task.outcome(name, vectors)).collect()
        };
        let dense_outcomes = outcomes(DENSE, dense)?;
        let places = compared(tasks);
        let reference = gather(dense, &places);
        let neighbours = (places.len() >= NEIGHBOURS + 2).then(|| Neighbours::of(reference.clone(), NEIGHBOURS));
        let score = |(name, vectors): &(String, Vec<Tensor<2>>)| -> Result<SentenceScore, EvalError> {
            let outcomes = outcomes(name, vectors)?;
            let changes = outcomes.iter().zip(&dense_outcomes).map(|(outcome, dense)| outcome.change(dense, bootstrap));
            let vectors = gather(vectors, &places);
            Ok(SentenceScore {
                name: name.clone(),
                tasks: changes.collect(),
                vectors: VectorScore::of(&reference, neighbours.as_ref(), vectors, bootstrap),
            })
        };
        let task = |(task, outcome): (&Task, &Outcome)| TaskScore {
            name: task.name().to_owned(),
            measure: task.measure(),
            n: match outcome {
                Outcome::Pairs { people, .. } => people.len(),
                Outcome::Probe(answers) => answers.len(),
            },
            score: outcome.score(),
            interval: outcome.interval(bootstrap),
        };
        Ok(Self {
            tasks: tasks.iter().zip(&dense_outcomes).map(task).collect(),
            candidates: candidates.iter().map(score).collect::<Result<_, _>>()?,
        })
    }
}

impl VectorScore {
    /// - `dense`, `candidate`: vectors of length 1, `[texts, width]`
    /// - `neighbours`: those of `dense`, unless the texts are too few
    fn of(dense: &Tensor<2>, neighbours: Option<&Neighbours>, candidate: Tensor<2>, bootstrap: &Bootstrap) -> Self {
        let cosines = cosines(dense.clone(), candidate.clone()).into_iter().map(f64::from);
        let (cosine, cosine_interval) = estimate(bootstrap, cosines);
        let texts = candidate.dims()[0];
        let neighbours = neighbours.map(|neighbours| {
            let shares = neighbours.overlap(&Neighbours::of(candidate, NEIGHBOURS));
            let (overlap, interval) = estimate(bootstrap, shares.into_iter().map(f64::from));
            NeighbourScore { overlap, interval, beyond_chance: beyond_chance(overlap, neighbours.chance()) }
        });
        Self { texts, cosine, cosine_interval, neighbours }
    }
}

/// The texts whose vectors are compared, each once, as (task, row of its vectors).
fn compared(tasks: &[Task]) -> Vec<(usize, usize)> {
    let pairs = tasks.iter().any(|task| task.measure() == Measure::Spearman);
    let mut seen = HashSet::new();
    let mut places = Vec::new();
    for (index, task) in tasks.iter().enumerate().filter(|(_, task)| !pairs || task.measure() == Measure::Spearman) {
        let new = task.texts().into_iter().enumerate().filter(|(_, text)| seen.insert(*text));
        places.extend(new.map(|(row, _)| (index, row)));
    }
    places
}

/// The vectors at some places, each divided by its length.
fn gather(vectors: &[Tensor<2>], places: &[(usize, usize)]) -> Tensor<2> {
    let mut of_task: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    places.iter().for_each(|(task, row)| of_task.entry(*task).or_default().push(*row));
    let parts = of_task.into_iter().map(|(task, places)| rows(&vectors[task], &places));
    unit(Tensor::cat(parts.collect(), 0))
}

/// Some rows of `x`, `[places, width]`.
pub(crate) fn rows(x: &Tensor<2>, places: &[usize]) -> Tensor<2> {
    let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &x.device());
    x.clone().select(0, places)
}

/// Each text once, in the order of their first appearance.
pub(crate) fn distinct<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    texts.map(String::as_str).filter(|text| seen.insert(*text)).collect()
}

/// The index of each text.
pub(crate) fn positions<'a>(texts: &[&'a str]) -> HashMap<&'a str, usize> {
    texts.iter().enumerate().map(|(index, text)| (*text, index)).collect()
}

/// A file's text, without a byte order mark.
pub(crate) fn read(path: &Path) -> Result<String, EvalError> {
    let text = fs::read_to_string(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burn::tensor::{Device, Distribution};

    use super::*;

    /// Pairs of numbers that are judged by their distance, and texts that are judged by their sign.
    fn tasks(folder: &Path, count: usize) -> Vec<Task> {
        // The golden section spreads them, and no two distances are equal.
        let at = |index: usize| ((index as f64 * 0.618034).fract() - 0.5) * 3.0;
        let pairs: String = (0..count)
            .map(|index| {
                let (a, b) = (at(index), at(index * index + 1));
                format!("{a:.6}\t{b:.6}\t{}\n", -(a - b).abs())
            })
            .collect();
        let labelled = |shift: f64| -> String {
            let line = |index| format!("{:.4}\t{}\n", at(index) + shift, u8::from(at(index) + shift > 0.0));
            ["sentence\tlabel\n".to_owned()].into_iter().chain((0..count).map(line)).collect()
        };
        let (probe, file): (PathBuf, PathBuf) = (folder.join("signs"), folder.join("distances.txt"));
        fs::create_dir(&probe).unwrap();
        fs::write(&file, pairs).unwrap();
        fs::write(probe.join("train.tsv"), labelled(0.0)).unwrap();
        fs::write(probe.join("dev.tsv"), labelled(0.02)).unwrap();
        [file, probe].iter().map(|path| Task::read(path).unwrap()).collect()
    }

    /// The point on a circle that a text names by its angle, with some noise.
    fn embed(task: &Task, noise: f64) -> Tensor<2> {
        let device = Device::flex();
        device.seed(7);
        let rows: Vec<Tensor<1>> = task
            .texts()
            .iter()
            .map(|text| {
                let (sin, cos) = text.parse::<f32>().unwrap().sin_cos();
                Tensor::from_floats([cos, sin], &device)
            })
            .collect();
        let x: Tensor<2> = Tensor::stack(rows, 0);
        let random = Tensor::random(x.dims(), Distribution::Normal(0.0, 1.0), &device);
        x + random * noise
    }

    #[test]
    fn a_model_equals_itself_and_its_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = tasks(folder.path(), 60);
        assert_eq!(tasks.iter().map(Task::name).collect::<Vec<_>>(), ["distances", "signs"]);
        let dense: Vec<Tensor<2>> = tasks.iter().map(|task| embed(task, 0.0)).collect();
        let (sin, cos) = 1.0f32.sin_cos();
        let rotation = Tensor::<2>::from_floats([[cos, sin], [-sin, cos]], &Device::flex()) * 3.0;
        let rotated = dense.iter().map(|x| x.clone().matmul(rotation.clone())).collect();
        let candidates = [("same".to_owned(), dense.clone()), ("rotated".to_owned(), rotated)];
        let comparison = SentenceComparison::new(&tasks, &dense, &candidates, &Bootstrap::default()).unwrap();
        assert_eq!((comparison.tasks[0].n, comparison.tasks[1].n), (60, 60));
        // The nearer two angles are, the larger their cosine.
        assert!((comparison.tasks[0].score - 1.0).abs() < 1e-3, "{}", comparison.tasks[0].score);
        assert!(comparison.tasks[1].score > 0.9, "{}", comparison.tasks[1].score);
        assert_eq!(tasks[1].score(&dense[1]).unwrap(), comparison.tasks[1].score);
        for (candidate, cosine) in comparison.candidates.iter().zip([1.0, f64::from(cos)]) {
            let changes: Vec<f64> = candidate.tasks.iter().map(|task| task.change).collect();
            assert!(changes.iter().all(|change| change.abs() < 1e-3), "{} {changes:?}", candidate.name);
            assert!((candidate.vectors.cosine - cosine).abs() < 1e-5, "{:?}", candidate.vectors);
            let neighbours = candidate.vectors.neighbours.unwrap();
            assert!(neighbours.overlap > 0.99 && neighbours.beyond_chance > 0.99, "{} {neighbours:?}", candidate.name);
        }
        let same = &comparison.candidates[0];
        assert_eq!((same.tasks[1].agreement, same.vectors.neighbours.unwrap().overlap), (Some(1.0), 1.0));
        let zero = same.tasks[0].change_interval.unwrap();
        assert_eq!((zero.low, zero.high), (0.0, 0.0));
        // Only the texts of pairs are compared.
        assert_eq!(same.vectors.texts, tasks[0].texts().len());
    }

    #[test]
    fn noise_costs_something_and_unrelated_vectors_all() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = tasks(folder.path(), 90);
        let dense: Vec<Tensor<2>> = tasks.iter().map(|task| embed(task, 0.0)).collect();
        let noisy = |noise| tasks.iter().map(|task| embed(task, noise)).collect::<Vec<_>>();
        let candidates = [("noisy".to_owned(), noisy(0.05)), ("unrelated".to_owned(), noisy(1000.0))];
        let comparison = SentenceComparison::new(&tasks, &dense, &candidates, &Bootstrap::default()).unwrap();
        let [noisy, unrelated] = &comparison.candidates[..] else { panic!("two candidates") };
        let overlap = |score: &SentenceScore| score.vectors.neighbours.unwrap();
        assert!((0.3..0.9).contains(&overlap(noisy).overlap), "{:?}", noisy.vectors);
        assert!(overlap(unrelated).beyond_chance.abs() < 0.05, "{:?}", unrelated.vectors);
        assert!(noisy.tasks[0].change < 0.0 && noisy.tasks[0].change > -0.2, "{:?}", noisy.tasks);
        assert!(unrelated.tasks[0].change < -0.7, "{:?}", unrelated.tasks);
        let interval = unrelated.tasks[0].change_interval.unwrap();
        assert!(interval.low < unrelated.tasks[0].change && unrelated.tasks[0].change < interval.high);
    }

    #[test]
    fn probes_alone_and_few_texts() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = tasks(folder.path(), 40);
        let probe = [tasks[1].clone()];
        let dense = [embed(&probe[0], 0.0)];
        let candidates = [("same".to_owned(), dense.to_vec())];
        let comparison = SentenceComparison::new(&probe, &dense, &candidates, &Bootstrap::default()).unwrap();
        assert_eq!(comparison.candidates[0].vectors.texts, probe[0].texts().len());
        let few = [tasks[0].every(8)];
        let dense = [embed(&few[0], 0.0)];
        let candidates = [("same".to_owned(), dense.to_vec())];
        let comparison = SentenceComparison::new(&few, &dense, &candidates, &Bootstrap::default()).unwrap();
        assert_eq!((comparison.tasks[0].n, comparison.candidates[0].vectors.neighbours), (5, None));
    }

    #[test]
    fn a_vector_without_direction_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let task = tasks(folder.path(), 20).remove(0);
        let good = embed(&task, 0.0);
        let text = task.texts()[3].to_owned();
        for bad in [0.0, f32::NAN] {
            let bad = good.clone().slice_fill([3..4, 0..2], bad);
            let candidates = [("int2".to_owned(), vec![bad])];
            let tasks = std::slice::from_ref(&task);
            let error = SentenceComparison::new(tasks, std::slice::from_ref(&good), &candidates, &Bootstrap::default());
            let expected = format!("int2: its vector of {text:?} in distances is zero or not finite");
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
    }
}
