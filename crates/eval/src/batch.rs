//! Windows of all texts, put together so that a model reads many at once.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{EvalError, Protocol, Text, Window};

/// Windows of one length that are scored from one position on: a rectangle, without padding.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Which of the evaluation's windows these are.
    pub windows: Vec<usize>,
    /// Tokens per window.
    pub length: usize,
    /// The first position that is scored, in every window.
    pub score_from: usize,
    /// `[windows, length]`, row-major.
    ids: Vec<i32>,
}

impl Batch {
    /// What the model reads, `[windows, length]`.
    pub(crate) fn input(&self, device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(self.ids.clone(), [self.windows.len(), self.length]), device)
    }

    /// The scored tokens of all windows in turn, `[windows * scored]`.
    pub(crate) fn targets(&self, device: &Device) -> Tensor<1, Int> {
        let targets: Vec<i32> = self.ids.chunks(self.length).flat_map(|row| row[self.score_from..].to_vec()).collect();
        let count = targets.len();
        Tensor::from_data(TensorData::new(targets, [count]), device)
    }

    /// The logits that predict the scored tokens, `[windows, length, vocab]` → `[windows * scored, vocab]`.
    pub(crate) fn predictions(&self, logits: Tensor<3>) -> Tensor<2> {
        let [rows, length, vocab] = logits.dims();
        // What is predicted at a position is the token after it.
        let scored = logits.slice([0..rows, self.score_from - 1..length - 1, 0..vocab]);
        scored.reshape([rows * self.scored(), vocab])
    }

    /// Scored tokens per window.
    pub(crate) fn scored(&self) -> usize {
        self.length - self.score_from
    }
}

/// All windows of an evaluation: the text of each, and the batches that they are read in.
#[derive(Debug)]
pub(crate) struct Batches {
    /// For each window, the index of its text.
    pub text_of: Vec<usize>,
    /// Every window is in one batch.
    pub batches: Vec<Batch>,
}

impl Batches {
    /// Cuts `texts` into windows, and those of equal length into batches of at most `rows`.
    ///
    /// - `vocab`: the size of the vocabulary, if known; every token must be below it
    ///
    /// # Errors
    ///
    /// If a text has no token to score, or one outside the vocabulary.
    pub(crate) fn new(
        texts: &[Text],
        protocol: &Protocol,
        bos: Option<u32>,
        rows: usize,
        vocab: Option<usize>,
    ) -> Result<Self, EvalError> {
        let mut text_of = Vec::new();
        let mut groups: BTreeMap<(usize, usize), Vec<(usize, Window)>> = BTreeMap::new();
        for (index, text) in texts.iter().enumerate() {
            let windows = protocol.windows_of(text, bos);
            if windows.is_empty() {
                let needed = if protocol.bos { 1 } else { 2 };
                return Err(EvalError::NothingToScore { text: name_of(text, index), needed });
            }
            for window in windows {
                if let Some((id, vocab)) = outside(&window.ids, vocab) {
                    return Err(EvalError::Vocabulary { text: name_of(text, index), id, vocab });
                }
                groups.entry((window.ids.len(), window.score_from)).or_default().push((text_of.len(), window));
                text_of.push(index);
            }
        }
        let batches = groups.into_iter().flat_map(|((length, score_from), windows)| {
            let batches: Vec<Batch> = windows
                .chunks(rows.max(1))
                .map(|part| Batch {
                    windows: part.iter().map(|(index, _)| *index).collect(),
                    length,
                    score_from,
                    ids: part.iter().flat_map(|(_, window)| window.ids.iter().map(|id| *id as i32)).collect(),
                })
                .collect();
            batches
        });
        Ok(Self { batches: batches.collect(), text_of })
    }

    /// Ranges of batches with about `tokens` tokens each, at least one batch.
    pub(crate) fn passes(&self, tokens: usize) -> Vec<&[Batch]> {
        let mut passes = Vec::new();
        let (mut start, mut held) = (0, 0);
        for (index, batch) in self.batches.iter().enumerate() {
            let size = batch.ids.len();
            if index > start && held + size > tokens {
                passes.push(&self.batches[start..index]);
                (start, held) = (index, 0);
            }
            held += size;
        }
        if start < self.batches.len() {
            passes.push(&self.batches[start..]);
        }
        passes
    }
}

/// How a text is called in an error: its language, or its position.
pub(crate) fn name_of(text: &Text, index: usize) -> String {
    text.language.clone().unwrap_or_else(|| (index + 1).to_string())
}

/// The first id that is not below `vocab`.
fn outside(ids: &[u32], vocab: Option<usize>) -> Option<(u32, usize)> {
    let vocab = vocab?;
    ids.iter().find(|id| **id as usize >= vocab).map(|id| (*id, vocab))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lengths: &[u32]) -> Text {
        let sequences = lengths.iter().map(|length| (0..*length).collect()).collect();
        Text { language: Some("en".into()), sequences }
    }

    #[test]
    fn rectangles_hold_every_window_once() {
        let texts = [text(&[10, 3]), text(&[7, 10])];
        let protocol = Protocol { length: 4, stride: 2, ..Protocol::default() };
        let batches = Batches::new(&texts, &protocol, None, 3, Some(10)).unwrap();
        let mut windows: Vec<usize> = batches.batches.iter().flat_map(|batch| batch.windows.clone()).collect();
        windows.sort_unstable();
        assert_eq!(windows, (0..batches.text_of.len()).collect::<Vec<_>>());
        assert_eq!(batches.text_of, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
        for batch in &batches.batches {
            assert!(batch.windows.len() <= 3);
            assert_eq!(batch.ids.len(), batch.windows.len() * batch.length);
        }
        let scored: usize = batches.batches.iter().map(|batch| batch.windows.len() * batch.scored()).sum();
        assert_eq!(scored, 9 + 2 + 6 + 9);
    }

    #[test]
    fn passes_are_bounded() {
        let batches =
            Batches::new(&[text(&[1000])], &Protocol { length: 10, stride: 10, ..Protocol::default() }, None, 4, None);
        let batches = batches.unwrap();
        for (tokens, count) in [(0, 25), (40, 25), (79, 25), (80, 13), (1000, 1), (usize::MAX, 1)] {
            let passes = batches.passes(tokens);
            assert_eq!(passes.len(), count, "{tokens}");
            assert_eq!(passes.iter().map(|pass| pass.len()).sum::<usize>(), 25);
        }
    }

    #[test]
    fn errors_name_the_text() {
        let protocol = Protocol::default();
        let empty = [text(&[5]), Text { language: None, sequences: vec![vec![1]] }];
        let error = Batches::new(&empty, &protocol, None, 1, None).unwrap_err().to_string();
        assert_eq!(error, "evaluation text 2: no token to score; give a text of at least 2 tokens");
        let error = Batches::new(&[text(&[5])], &protocol, None, 1, Some(4)).unwrap_err().to_string();
        assert!(error.starts_with("evaluation text en: token 4 is outside the vocabulary of 4"), "{error}");
    }
}
