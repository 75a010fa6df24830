//! Similarity: the order that a model gives pairs of texts, beside the order that people gave them.

use std::path::Path;

use burn::tensor::Tensor;
use quench_metrics::{cosines, spearman};

use crate::EvalError;
use crate::sentences::{distinct, positions, read, rows};

/// Pairs of sentences or words, each with the similarity that people saw in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgements {
    pub(crate) name: String,
    pairs: Vec<Judgement>,
}

/// One pair.
#[derive(Clone, Debug, PartialEq)]
struct Judgement {
    texts: [String; 2],
    score: f64,
}

impl Judgements {
    /// Reads a file of pairs, `text,text,score` in each line and no head line: separated by tabs if there is one in the
    /// first line, as in the word similarity sets, else by commas, as in the STS benchmark. Between commas, a field with a
    /// comma, a quote or a line break in it stands in quotes, and its quotes are doubled.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, a record is not two texts and a finite number, naming its line, or there are fewer
    /// than two pairs.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let text = read(path)?;
        let expected = "two texts and a number".to_owned();
        let wrong = |line, found| EvalError::Line { path: path.to_owned(), line, expected: expected.clone(), found };
        let mut pairs = Vec::new();
        for (line, record) in records(&text) {
            let Ok([a, b, score]) = <[String; 3]>::try_from(record.clone()) else {
                return Err(wrong(line, format!("{} fields", record.len())));
            };
            let score = match score.trim().parse::<f64>() {
                Ok(score) if score.is_finite() => score,
                _ => return Err(wrong(line, format!("the score `{score}`"))),
            };
            pairs.push(Judgement { texts: [a, b], score });
        }
        if pairs.len() < 2 {
            let reason = format!("{} pairs have no order; at least 2 are needed", pairs.len());
            return Err(EvalError::Task { task: path.display().to_string(), reason });
        }
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, pairs })
    }

    /// Every n-th pair, the first included.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn every(&self, n: usize) -> Self {
        Self { name: self.name.clone(), pairs: self.pairs.iter().step_by(n).cloned().collect() }
    }

    /// The file's name without its ending, unless [`Task::named`](crate::Task::named) gave another.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The texts of all pairs, each once, in the order of their first appearance.
    pub fn texts(&self) -> Vec<&str> {
        distinct(self.pairs.iter().flat_map(|pair| &pair.texts))
    }

    /// Spearman's correlation between people's scores and the cosines of a model's vectors.
    ///
    /// - `vectors`: one for each of [`texts`](Self::texts), `[texts, width]`, of any length but 0
    ///
    /// # Errors
    ///
    /// If one side has no order.
    ///
    /// # Panics
    ///
    /// If there is another number of vectors than texts.
    pub fn spearman(&self, vectors: &Tensor<2>) -> Result<f64, EvalError> {
        spearman(&self.scores(), &self.cosines(vectors)).ok_or_else(|| {
            let reason =
                format!("{} pairs give no correlation: all scores, or all similarities, are equal", self.len());
            EvalError::Task { task: self.name.clone(), reason }
        })
    }

    /// What people said, pair by pair.
    pub(crate) fn scores(&self) -> Vec<f64> {
        self.pairs.iter().map(|pair| pair.score).collect()
    }

    /// What a model says, pair by pair.
    pub(crate) fn cosines(&self, vectors: &Tensor<2>) -> Vec<f64> {
        let texts = self.texts();
        assert_eq!(vectors.dims()[0], texts.len(), "one vector is due for each of {} texts", texts.len());
        let places = positions(&texts);
        let side = |side: usize| {
            let places: Vec<usize> = self.pairs.iter().map(|pair| places[pair.texts[side].as_str()]).collect();
            rows(vectors, &places)
        };
        cosines(side(0), side(1)).into_iter().map(f64::from).collect()
    }
}

/// The records of a text, each with the line it begins on; empty lines are none.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let tabs = text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.contains('\t'));
    if tabs {
        lines(text).map(|(line, fields)| (line, fields.map(str::to_owned).collect())).collect()
    } else {
        commas(text)
    }
}

/// The fields between tabs of each line, from 1, that is not empty.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, std::str::Split<'_, char>)> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled.map(|(line, text)| (line + 1, text.split('\t')))
}

/// The records of a comma-separated text.
fn commas(text: &str) -> Vec<(usize, Vec<String>)> {
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
    use std::fs;

    use burn::tensor::Device;

    use super::*;

    fn judgements(text: &str) -> Result<Judgements, EvalError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Judgements::read(file.path())
    }

    fn pairs(judgements: &Judgements) -> Vec<[&str; 2]> {
        judgements.pairs.iter().map(|pair| pair.texts.each_ref().map(String::as_str)).collect()
    }

    #[test]
    fn fields_may_be_quoted() {
        let read = judgements("a,b,1\r\n\"one, two\",\"a \"\"b\"\"\nc\",2.5\n\nlast, it is,0").unwrap();
        assert_eq!(pairs(&read), [["a", "b"], ["one, two", "a \"b\"\nc"], ["last", " it is"]]);
        assert_eq!(read.scores(), [1.0, 2.5, 0.0]);
        assert_eq!((read.every(2).len(), read.every(2).scores()[1]), (2, 0.0));
    }

    #[test]
    fn tabs_separate_as_they_are() {
        let read = judgements("\u{feff}tiger\tcat, wild\t7.35\r\n\n\"tiger\ttiger\t10\n").unwrap();
        assert_eq!(pairs(&read), [["tiger", "cat, wild"], ["\"tiger", "tiger"]]);
        assert_eq!(read.texts(), ["tiger", "cat, wild", "\"tiger"]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, found) in [
            ("a,b,1\nc,d\n", "line 2", "2 fields"),
            ("a,\"b\nc\",1\nd,e,much\n", "line 3", "`much`"),
            ("a,b,NaN", "line 1", "`NaN`"),
            ("a,\"b,1\n", "line 1", "2 fields"),
            ("a\tb\t1\n\na\tb,1", "line 3", "2 fields"),
            ("a,b,1", "", "1 pairs"),
        ] {
            let message = judgements(text).unwrap_err().to_string();
            assert!(message.contains(line) && message.contains(found), "{message}");
        }
        assert!(Judgements::read(Path::new("nowhere.csv")).unwrap_err().to_string().contains("nowhere.csv"));
    }

    #[test]
    fn cosines_are_ranked_against_scores() {
        // Angles to the x axis; vectors are of several lengths, which changes nothing.
        let embed = |texts: &[&str]| -> Tensor<2> {
            let rows = texts.iter().enumerate().map(|(index, text)| {
                let (sin, cos) = text.parse::<f32>().unwrap().to_radians().sin_cos();
                let length = 1.0 + index as f32;
                Tensor::<1>::from_floats([cos * length, sin * length], &Device::flex())
            });
            Tensor::stack(rows.collect(), 0)
        };
        let angles = judgements("0,0,5\n0,30,4\n0,60,1\n0,90,2\n").unwrap();
        assert_eq!(angles.texts(), ["0", "30", "60", "90"]);
        assert!((angles.spearman(&embed(&angles.texts())).unwrap() - 0.8).abs() < 1e-12);
        let equal = judgements("0,0,5\n0,30,5\n").unwrap();
        assert!(equal.spearman(&embed(&equal.texts())).unwrap_err().to_string().contains("2 pairs"));
    }
}
