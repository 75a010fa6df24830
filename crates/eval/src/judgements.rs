//! Sentence similarity: the order that a model gives pairs of sentences, beside the order that people gave them.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use quench_metrics::spearman;

/// Pairs of sentences, each with the similarity that people saw in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgements {
    path: PathBuf,
    pairs: Vec<Judgement>,
}

/// One pair.
#[derive(Clone, Debug, PartialEq)]
struct Judgement {
    sentences: [String; 2],
    score: f64,
}

/// Why a file of judgements, or a model's vectors for it, cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum JudgementError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A line is not a pair with its score.
    #[error("{}: line {line} must be two sentences and a number, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1, where the record begins.
        line: usize,
        /// What is there.
        found: String,
    },
    /// There is no order to compare.
    #[error("{}: {pairs} pairs give no correlation: all scores, or all similarities, are equal", path.display())]
    Constant {
        /// The file.
        path: PathBuf,
        /// How many pairs there are.
        pairs: usize,
    },
    /// The sentences cannot be embedded.
    #[error(transparent)]
    Embed(Box<dyn std::error::Error + Send + Sync>),
}

impl Judgements {
    /// Reads a comma-separated file as that of the STS benchmark: `sentence,sentence,score`, without a head line. A field
    /// with a comma, a quote or a line break in it stands in quotes, and its quotes are doubled.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a record is not two sentences and a finite number, naming its line.
    pub fn read(path: &Path) -> Result<Self, JudgementError> {
        let text = fs::read_to_string(path).map_err(|source| JudgementError::Read { path: path.to_owned(), source })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let wrong = |line, found: String| JudgementError::Line { path: path.to_owned(), line, found };
        let mut pairs = Vec::new();
        for (line, record) in records(text) {
            let Ok([a, b, score]) = <[String; 3]>::try_from(record.clone()) else {
                return Err(wrong(line, format!("{} fields", record.len())));
            };
            let score = match score.trim().parse::<f64>() {
                Ok(score) if score.is_finite() => score,
                _ => return Err(wrong(line, format!("the score `{score}`"))),
            };
            pairs.push(Judgement { sentences: [a, b], score });
        }
        Ok(Self { path: path.to_owned(), pairs })
    }

    /// Every n-th pair, the first included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn every(&self, n: usize) -> Self {
        Self { path: self.path.clone(), pairs: self.pairs.iter().step_by(n).cloned().collect() }
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Spearman's correlation between people's scores and the cosines of a model's vectors.
    ///
    /// - `embed`: texts → one vector each, `[texts, width]`, of any length but 0; called once, with all sentences
    ///
    /// # Errors
    ///
    /// What `embed` reports; if one side has no order.
    ///
    /// # Panics
    ///
    /// If `embed` returns another number of vectors than texts.
    pub fn spearman<E>(&self, embed: impl FnOnce(&[&str]) -> Result<Tensor<2>, E>) -> Result<f64, JudgementError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let constant = || JudgementError::Constant { path: self.path.clone(), pairs: self.len() };
        if self.len() < 2 {
            return Err(constant());
        }
        let side = |side: usize| self.pairs.iter().map(move |pair| pair.sentences[side].as_str());
        let texts: Vec<&str> = side(0).chain(side(1)).collect();
        let vectors = embed(&texts).map_err(|error| JudgementError::Embed(Box::new(error)))?;
        assert_eq!(vectors.dims()[0], texts.len(), "one vector is due for each of {} texts", texts.len());
        let norms = vectors.clone().square().sum_dim(1).sqrt();
        let [a, b] = [0, self.len()].map(|first| (vectors.clone() / norms.clone()).narrow(0, first, self.len()));
        let cosines = (a * b).sum_dim(1).into_data().convert::<f64>();
        let cosines: Vec<f64> = cosines.try_to_vec().unwrap_or_else(|error| unreachable!("f64 it is: {error:?}"));
        let scores: Vec<f64> = self.pairs.iter().map(|pair| pair.score).collect();
        spearman(&scores, &cosines).ok_or_else(constant)
    }
}

/// The records of a comma-separated text, each with the line it begins on; empty lines are none.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut records = Vec::new();
    let (mut line, mut begins) = (1, 1);
    let (mut fields, mut field) = (Vec::new(), String::new());
    let (mut quoted, mut any) = (false, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => (quoted, any) = (!quoted, true),
            ',' if !quoted => {
                fields.push(std::mem::take(&mut field));
                any = true;
            }
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                if any {
                    fields.push(std::mem::take(&mut field));
                    records.push((begins, std::mem::take(&mut fields)));
                }
                (begins, any) = (line, false);
            }
            other => {
                field.push(other);
                any = true;
            }
        }
    }
    if any {
        fields.push(field);
        records.push((begins, fields));
    }
    records
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use burn::tensor::Device;

    use super::*;

    fn read(text: &str) -> Result<Judgements, JudgementError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Judgements::read(file.path())
    }

    #[test]
    fn fields_may_be_quoted() {
        let read = read("a,b,1\r\n\"one, two\",\"a \"\"b\"\"\nc\",2.5\n\nlast, it is,0").unwrap();
        let pairs: Vec<[&str; 2]> = read.pairs.iter().map(|p| p.sentences.each_ref().map(String::as_str)).collect();
        assert_eq!(pairs, [["a", "b"], ["one, two", "a \"b\"\nc"], ["last", " it is"]]);
        assert_eq!(read.pairs.iter().map(|pair| pair.score).collect::<Vec<_>>(), [1.0, 2.5, 0.0]);
        assert_eq!((read.every(2).len(), read.every(2).pairs[1].score), (2, 0.0));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, found) in [
            ("a,b,1\nc,d\n", "line 2", "2 fields"),
            ("a,\"b\nc\",1\nd,e,much\n", "line 3", "`much`"),
            ("a,b,NaN", "line 1", "`NaN`"),
            ("a,\"b,1\n", "line 1", "2 fields"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(line) && message.contains(found), "{message}");
        }
        assert!(Judgements::read(Path::new("nowhere.csv")).unwrap_err().to_string().contains("nowhere.csv"));
    }

    #[test]
    fn cosines_are_ranked_against_scores() {
        // Angles to the x axis; the second vectors are twice as long, which changes nothing.
        let judgements = read("0,0,5\n0,30,4\n0,60,1\n0,90,2\n").unwrap();
        let embed = |texts: &[&str]| -> Result<Tensor<2>, Infallible> {
            let rows = texts.iter().enumerate().map(|(index, text)| {
                let (sin, cos) = text.parse::<f32>().unwrap().to_radians().sin_cos();
                let length = if index < 4 { 1.0 } else { 2.0 };
                Tensor::<1>::from_floats([cos * length, sin * length], &Device::flex())
            });
            Ok(Tensor::stack(rows.collect(), 0))
        };
        assert!((judgements.spearman(embed).unwrap() - 0.8).abs() < 1e-12);
        let equal = read("0,0,5\n0,30,5\n").unwrap();
        assert!(equal.spearman(embed).unwrap_err().to_string().contains("2 pairs"));
    }
}
