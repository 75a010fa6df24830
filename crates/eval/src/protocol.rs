//! Which tokens of a text are scored, and what the model has read before each.

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// Token ids to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The language of all sequences; texts of one language are scored together.
    pub language: Option<String>,
    /// Sequences without special tokens; no window reaches from one into the next.
    pub sequences: Vec<Vec<u32>>,
}

/// Sliding-window perplexity: how a sequence is cut into windows, and which tokens of each are scored.
///
/// Windows hold `length` tokens and start every `stride` tokens; each is read by the model on its own, and a token is
/// scored in the first window in which it can be. `docs/evaluation.md` states this exactly.
///
/// ```
/// use quench_eval::Protocol;
///
/// let protocol = Protocol { length: 4, stride: 2, windows: None, bos: false };
/// let windows = protocol.split(&[10, 11, 12, 13, 14, 15, 16], None);
/// let scored: Vec<&[u32]> = windows.iter().map(|window| window.scored()).collect();
/// assert_eq!(windows[1].ids, [12, 13, 14, 15]);
/// assert_eq!(scored, [&[11, 12, 13][..], &[14, 15], &[16]]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Tokens that the model reads at once, at least 2; a beginning-of-sequence token counts.
    pub length: usize,
    /// Tokens of text from the start of one window to the start of the next, `1..=length`; `length` makes disjoint
    /// windows.
    pub stride: usize,
    /// The most windows scored per text, counted over its sequences in order; `None` for all.
    pub windows: Option<usize>,
    /// Whether each window starts with the beginning-of-sequence token.
    pub bos: bool,
}

impl Default for Protocol {
    /// Disjoint windows of 256 tokens, without beginning-of-sequence token.
    fn default() -> Self {
        Self { length: 256, stride: 256, windows: None, bos: false }
    }
}

/// Tokens that the model reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// The first position that is scored; its prediction is made at the position before, so it is at least 1.
    pub score_from: usize,
}

impl Window {
    /// The tokens that are scored.
    pub fn scored(&self) -> &[u32] {
        &self.ids[self.score_from..]
    }
}

impl Protocol {
    /// Whether the protocol can be carried out with this beginning-of-sequence token.
    ///
    /// # Errors
    ///
    /// [`EvalError::Protocol`] for a length below 2, a stride outside `1..=length`, no windows, or `bos` without a
    /// token for it.
    pub fn check(&self, bos: Option<u32>) -> Result<(), EvalError> {
        let Self { length, stride, windows, .. } = *self;
        let fault = if length < 2 {
            format!("length is {length}; it must be at least 2, one token to read and one to score")
        } else if stride == 0 || stride > length {
            format!("stride is {stride}; it must be from 1 to the length, {length}")
        } else if windows == Some(0) {
            "windows is 0; it must be at least 1".into()
        } else if self.bos && bos.is_none() {
            "windows are to start with a beginning-of-sequence token, and the tokenizer has none".into()
        } else {
            return Ok(());
        };
        Err(EvalError::Protocol(fault))
    }

    /// The windows of one sequence, at most [`windows`](Self::windows) of them; those without a scored token are left
    /// out.
    ///
    /// A window holds `c` tokens of the sequence: `length`, or `length - 1` after a beginning-of-sequence token.
    /// Window `k` starts at token `k s` with `s = min(stride, c)`; the last one is the first to reach the end. In
    /// window 0 all tokens are scored that have a token before them in the window, in later windows all tokens
    /// that no earlier window held and that have a token before them in the window.
    ///
    /// - `s < c`, or with beginning-of-sequence token: every token of the sequence is scored exactly once, but for the
    ///   first where nothing precedes it.
    /// - `s = c` without it: every token but the first of each window is scored exactly once.
    ///
    /// `bos` is read only if the protocol asks for it.
    ///
    /// # Panics
    ///
    /// If [`check`](Self::check) would fail.
    pub fn split(&self, ids: &[u32], bos: Option<u32>) -> Vec<Window> {
        if let Err(error) = self.check(bos) {
            panic!("{error}");
        }
        let prefix = bos.filter(|_| self.bos);
        let before = usize::from(prefix.is_some());
        let content = self.length - before;
        let stride = self.stride.min(content);
        let mut windows = Vec::new();
        let (mut start, mut held) = (0, 0);
        while held < ids.len() && self.windows.is_none_or(|most| windows.len() < most) {
            let end = (start + content).min(ids.len());
            let window = Window {
                score_from: (before + held - start).max(1),
                ids: prefix.into_iter().chain(ids[start..end].iter().copied()).collect(),
            };
            if window.score_from < window.ids.len() {
                windows.push(window);
            }
            held = end;
            start += stride;
        }
        windows
    }

    /// The windows of all sequences of a text, at most [`windows`](Self::windows) of them.
    ///
    /// # Panics
    ///
    /// If [`check`](Self::check) would fail.
    pub fn windows_of(&self, text: &Text, bos: Option<u32>) -> Vec<Window> {
        let mut windows = Vec::new();
        for sequence in &text.sequences {
            let left = self.windows.map(|most| most - windows.len());
            if left == Some(0) {
                break;
            }
            windows.extend(Self { windows: left, ..*self }.split(sequence, bos));
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOS: u32 = 1_000_000;

    fn protocol(length: usize, stride: usize, bos: bool) -> Protocol {
        Protocol { length, stride, windows: None, bos }
    }

    #[test]
    fn named_cases() {
        let ids: Vec<u32> = (0..7).collect();
        for (name, protocol, expected) in [
            ("disjoint", protocol(3, 3, false), vec![(vec![0, 1, 2], 1), (vec![3, 4, 5], 1)]),
            ("one window", protocol(9, 4, false), vec![(vec![0, 1, 2, 3, 4, 5, 6], 1)]),
            (
                "overlapping",
                protocol(4, 2, false),
                vec![(vec![0, 1, 2, 3], 1), (vec![2, 3, 4, 5], 2), (vec![4, 5, 6], 2)],
            ),
            (
                "beginning of sequence, disjoint",
                protocol(4, 4, true),
                vec![(vec![BOS, 0, 1, 2], 1), (vec![BOS, 3, 4, 5], 1), (vec![BOS, 6], 1)],
            ),
            (
                "beginning of sequence, overlapping",
                protocol(5, 2, true),
                vec![(vec![BOS, 0, 1, 2, 3], 1), (vec![BOS, 2, 3, 4, 5], 3), (vec![BOS, 4, 5, 6], 3)],
            ),
        ] {
            let found: Vec<_> = protocol.split(&ids, Some(BOS)).into_iter().map(|w| (w.ids, w.score_from)).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn short_sequences() {
        for (ids, bos, count) in
            [(&[][..], false, 0), (&[5], false, 0), (&[], true, 0), (&[5], true, 1), (&[5, 6], false, 1)]
        {
            assert_eq!(protocol(8, 8, bos).split(ids, Some(BOS)).len(), count, "{ids:?} {bos}");
        }
    }

    #[test]
    fn limit_counts_over_sequences() {
        let text = Text { language: None, sequences: vec![(0..10).collect(), vec![7], (10..30).collect()] };
        let windows = Protocol { windows: Some(4), ..protocol(5, 5, false) }.windows_of(&text, None);
        let starts: Vec<u32> = windows.iter().map(|window| window.ids[0]).collect();
        assert_eq!(starts, [0, 5, 10, 15]);
        assert_eq!(protocol(5, 5, false).windows_of(&text, None).len(), 6);
    }

    #[test]
    fn impossible_protocols() {
        for (protocol, expected) in [
            (protocol(1, 1, false), "length is 1"),
            (protocol(4, 0, false), "stride is 0"),
            (protocol(4, 5, false), "stride is 5"),
            (protocol(4, 4, true), "has none"),
            (Protocol { windows: Some(0), ..protocol(4, 4, false) }, "windows is 0"),
        ] {
            let error = protocol.check(None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        /// Every token that can be scored is scored exactly once, in order, with as much context as promised.
        #[test]
        fn each_token_once(n in 0usize..200, length in 2usize..40, stride in 1usize..40, bos: bool) {
            let protocol = protocol(length, 1 + (stride - 1) % length, bos);
            let ids: Vec<u32> = (0..n as u32).collect();
            let windows = protocol.split(&ids, Some(BOS));
            let before = usize::from(bos);
            let content = length - before;
            let step = protocol.stride.min(content);
            let expected: Vec<u32> = (0..n)
                .filter(|i| bos || if step < content { *i > 0 } else { i % length > 0 })
                .map(|i| i as u32)
                .collect();
            let scored: Vec<u32> = windows.iter().flat_map(|window| window.scored().to_vec()).collect();
            prop_assert_eq!(scored, expected);
            for window in &windows {
                prop_assert!(window.ids.len() <= length && window.score_from >= 1);
                prop_assert_eq!(bos, window.ids[0] == BOS);
                let text = &window.ids[before..];
                prop_assert!(text.windows(2).all(|pair| pair[1] == pair[0] + 1), "consecutive");
                for (position, id) in window.ids.iter().enumerate().skip(window.score_from) {
                    prop_assert!(position - before >= (*id as usize).min(content - step), "context of {}", id);
                }
            }
        }

        /// A limit keeps the first windows as they are.
        #[test]
        fn limit_is_a_prefix(n in 0usize..100, length in 2usize..20, most in 1usize..8) {
            let all = protocol(length, length.div_ceil(2), false);
            let ids: Vec<u32> = (0..n as u32).collect();
            let windows = all.split(&ids, None);
            let limited = Protocol { windows: Some(most), ..all }.split(&ids, None);
            prop_assert_eq!(&limited[..], &windows[..most.min(windows.len())]);
        }
    }
}
