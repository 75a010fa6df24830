//! Texts of known classes: how well a linear probe on a model's vectors tells them apart.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Tensor;
use quench_metrics::Probe;

use crate::EvalError;
use crate::images::visible;
use crate::judgements::lines;
use crate::sentences::{distinct, positions, read, rows};

/// Texts with labels: some that a probe is trained on, and some that it is asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Statements {
    pub(crate) name: String,
    /// The labels in the files, rising; a class is a position here.
    labels: Vec<i64>,
    train: Vec<Statement>,
    test: Vec<Statement>,
}

/// One text.
#[derive(Clone, Debug, PartialEq)]
struct Statement {
    text: String,
    class: usize,
}

impl Statements {
    /// Reads a folder as that of SST-2: a file `train*.tsv` to train on, and `dev.tsv`, or else `test.tsv`, to ask about.
    /// Each has the head line `sentence<TAB>label` and then a text with an integer in each line.
    ///
    /// # Errors
    ///
    /// If there are not those files, one cannot be read, a line is not a text and an integer, or there are not two
    /// labels to train on, or one to ask about that is not among them.
    pub fn read(folder: &Path) -> Result<Self, EvalError> {
        let files = visible(folder)?;
        let wrong = |reason: String| EvalError::Layout { path: folder.to_owned(), reason };
        let trains: Vec<_> =
            files.iter().filter(|(name, _)| name.starts_with("train") && name.ends_with(".tsv")).collect();
        let [(_, train)] = trains[..] else {
            return Err(wrong(format!("{} files train*.tsv instead of one", trains.len())));
        };
        let test = ["dev.tsv", "test.tsv"].iter().find_map(|wanted| files.iter().find(|(name, _)| name == wanted));
        let Some((_, test)) = test else {
            return Err(wrong("neither dev.tsv nor test.tsv".to_owned()));
        };
        let train_lines = labelled(train)?;
        let distinct: BTreeSet<i64> = train_lines.iter().map(|(_, _, label)| *label).collect();
        let labels: Vec<i64> = distinct.into_iter().collect();
        if labels.len() < 2 {
            return Err(wrong(format!("{} labels in {} are not two or more", labels.len(), train.display())));
        }
        let statements = |file: &Path, lines: Vec<(usize, String, i64)>| -> Result<Vec<Statement>, EvalError> {
            let statement = |(line, text, label)| match labels.binary_search(&label) {
                Ok(class) => Ok(Statement { text, class }),
                Err(_) => Err(EvalError::Line {
                    path: file.to_owned(),
                    line,
                    expected: format!("of a label in {}", train.display()),
                    found: format!("the label {label}"),
                }),
            };
            lines.into_iter().map(statement).collect()
        };
        let test_lines = labelled(test)?;
        if test_lines.is_empty() {
            return Err(wrong(format!("{} has no text", test.display())));
        }
        let (train, test) = (statements(train, train_lines)?, statements(test, test_lines)?);
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, labels, train, test })
    }

    /// Every n-th text of both parts, the first included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn every(&self, n: usize) -> Self {
        let every = |part: &[Statement]| part.iter().step_by(n).cloned().collect();
        Self { train: every(&self.train), test: every(&self.test), ..self.clone() }
    }

    /// The folder's name, unless [`Task::named`](crate::Task::named) gave another.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many texts are asked about.
    pub fn len(&self) -> usize {
        self.test.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.test.is_empty()
    }

    /// The texts of both parts, each once, in the order of their first appearance.
    pub fn texts(&self) -> Vec<&str> {
        distinct(self.train.iter().chain(&self.test).map(|statement| &statement.text))
    }

    /// What a probe says that is trained on these vectors, and whether it is right, for each text that is asked about.
    ///
    /// - `vectors`: one for each of [`texts`](Self::texts), `[texts, width]`, finite
    ///
    /// # Panics
    ///
    /// If there is another number of vectors than texts.
    pub(crate) fn answers(&self, vectors: &Tensor<2>) -> Vec<Answer> {
        let texts = self.texts();
        assert_eq!(vectors.dims()[0], texts.len(), "one vector is due for each of {} texts", texts.len());
        let places = positions(&texts);
        let vectors = |part: &[Statement]| {
            let places: Vec<usize> = part.iter().map(|statement| places[statement.text.as_str()]).collect();
            rows(vectors, &places)
        };
        let classes: Vec<usize> = self.train.iter().map(|statement| statement.class).collect();
        let probe = Probe::fit(vectors(&self.train), &classes, self.labels.len());
        let answer = |(class, statement): (usize, &Statement)| Answer { class, right: class == statement.class };
        probe.predict(vectors(&self.test)).into_iter().zip(&self.test).map(answer).collect()
    }
}

/// What a probe says of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub class: usize,
    pub right: bool,
}

/// The texts of a file with their labels, each with its line.
fn labelled(path: &Path) -> Result<Vec<(usize, String, i64)>, EvalError> {
    let text = read(path)?;
    let wrong = |line, expected: &str, found: String| EvalError::Line {
        path: path.to_owned(),
        line,
        expected: expected.to_owned(),
        found,
    };
    let mut statements = Vec::new();
    for (index, (line, fields)) in lines(&text).enumerate() {
        let fields: Vec<&str> = fields.map(str::trim).collect();
        match (index, &fields[..]) {
            (0, ["sentence", "label"]) => {}
            (0, _) => return Err(wrong(line, "the head `sentence<TAB>label`", format!("`{}`", fields.join("<TAB>")))),
            (_, [text, label]) => match label.parse() {
                Ok(label) => statements.push((line, (*text).to_owned(), label)),
                Err(_) => return Err(wrong(line, "a text and an integer", format!("the label `{label}`"))),
            },
            _ => return Err(wrong(line, "a text and an integer", format!("{} fields", fields.len()))),
        }
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::Device;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        folder
    }

    const TRAIN: (&str, &str) = ("train_4.tsv", "sentence\tlabel\nbad \t-1\nworse\t-1\nok\t0\nbest\t5\n");

    #[test]
    fn a_folder_is_read() {
        let folder = folder(&[TRAIN, ("test.tsv", "x"), ("dev.tsv", "sentence\tlabel\r\nbad\t-1\r\n\r\ngood\t5\r\n")]);
        let read = Statements::read(folder.path()).unwrap();
        assert_eq!(read.labels, [-1, 0, 5]);
        assert_eq!((read.train.len(), read.len(), read.every(3).train.len(), read.every(3).len()), (4, 2, 2, 1));
        assert_eq!(read.texts(), ["bad", "worse", "ok", "best", "good"]);
        let vectors = Tensor::<2>::from_floats([[-3.0], [-3.5], [0.0], [3.0], [2.5]], &Device::flex());
        let answers = read.answers(&vectors);
        assert_eq!(answers, [Answer { class: 0, right: true }, Answer { class: 2, right: true }]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dev = |text| ("dev.tsv", text);
        for (files, expected) in [
            (vec![TRAIN], "neither dev.tsv nor test.tsv"),
            (vec![dev("sentence\tlabel\na\t0\n")], "0 files train*.tsv instead of one"),
            (vec![TRAIN, ("train_8.tsv", ""), dev("")], "2 files train*.tsv instead of one"),
            (vec![TRAIN, dev("sentence\tlabel\n")], "dev.tsv has no text"),
            (vec![TRAIN, dev("a\t0\n")], "dev.tsv: line 1 must be the head `sentence<TAB>label`, found `a<TAB>0`"),
            (
                vec![TRAIN, dev("sentence\tlabel\n\na\tb\t0\n")],
                "dev.tsv: line 3 must be a text and an integer, found 3",
            ),
            (vec![TRAIN, dev("sentence\tlabel\na\t0.5\n")], "dev.tsv: line 2 must be a text and an integer, found the"),
            (vec![TRAIN, dev("sentence\tlabel\na\t7\n")], "train_4.tsv, found the label 7"),
            (vec![("train.tsv", "sentence\tlabel\na\t1\n"), dev("")], "1 labels in "),
        ] {
            let folder = folder(&files);
            let message = Statements::read(folder.path()).unwrap_err().to_string();
            assert!(
                message.starts_with(&folder.path().display().to_string()) && message.contains(expected),
                "{message}"
            );
        }
    }
}
