//! From values per token to the numbers of a report.

use std::collections::BTreeMap;

use quench_metrics::{Bootstrap, Interval, Summary, Total};
use serde::{Deserialize, Serialize};

use crate::{LayerError, Text};

/// A dense model and the candidates compared with it, all on the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The dense model alone.
    pub dense: ModelScore,
    /// Each candidate against the dense model, in the order given.
    pub candidates: Vec<CandidateScore>,
}

/// The perplexity of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {
    /// Over all texts, each token counted alike.
    pub total: Perplexity,
    /// Per language, over the texts that name one.
    pub languages: BTreeMap<String, Perplexity>,
}

/// A perplexity, and what it was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Windows read.
    pub windows: usize,
    /// Tokens scored.
    pub tokens: usize,
    /// Mean negative log-likelihood, nats per token.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Bootstrap interval of the perplexity, over windows; `None` for a single window.
    pub interval: Option<Interval>,
}

/// One candidate against the dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateScore {
    /// The candidate's name.
    pub name: String,
    /// Over all texts, each token counted alike.
    pub total: Score,
    /// Per language, over the texts that name one.
    pub languages: BTreeMap<String, Score>,
    /// How far each layer's output is from the dense model's, in the order of the walk; empty if not asked for.
    pub layers: Vec<LayerError>,
}

impl CandidateScore {
    /// The language whose perplexity rises most.
    pub fn worst_language(&self) -> Option<(&str, &Score)> {
        self.languages
            .iter()
            .max_by(|(_, a), (_, b)| a.increase.total_cmp(&b.increase))
            .map(|(language, score)| (language.as_str(), score))
    }
}

/// A candidate against the dense model on some tokens.
///
/// Intervals are bootstrap intervals over windows, `None` for a single window; what compares two models is paired.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Tokens scored.
    pub tokens: usize,
    /// The candidate's perplexity.
    pub perplexity: f64,
    /// The dense model's perplexity on the same tokens.
    pub dense_perplexity: f64,
    /// `perplexity / dense_perplexity - 1`.
    pub increase: f64,
    /// Interval of `increase`.
    pub increase_interval: Option<Interval>,
    /// KL divergence of the candidate's predictions from the dense model's, nats per token.
    pub kl: Summary,
    /// Interval of the mean KL divergence.
    pub kl_interval: Option<Interval>,
    /// Share of the tokens at which both models hold the same token likeliest, 0 to 1.
    pub agreement: f64,
    /// Interval of `agreement`.
    pub agreement_interval: Option<Interval>,
}

/// What was measured on the scored tokens of one window; one value per token.
#[derive(Clone, Debug, Default)]
pub(crate) struct WindowValues {
    /// Negative log-likelihood under the dense model.
    pub dense: Vec<f32>,
    /// Per candidate.
    pub candidates: Vec<CandidateValues>,
}

/// What was measured of one candidate on the scored tokens of one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct CandidateValues {
    pub nll: Vec<f32>,
    pub kl: Vec<f32>,
    pub agreement: Vec<bool>,
}

/// The score of the dense model from the values of all windows.
///
/// - `text_of`: for each window, the index of its text
pub(crate) fn model_score(
    values: &[WindowValues],
    text_of: &[usize],
    texts: &[Text],
    bootstrap: &Bootstrap,
) -> ModelScore {
    let of = |windows: Vec<&WindowValues>| {
        let totals: Vec<Total> =
            windows.iter().map(|window| total(window.dense.iter().copied().map(f64::from))).collect();
        let (nll, tokens) = mean(&totals);
        Perplexity {
            windows: windows.len(),
            tokens,
            nll,
            perplexity: nll.exp(),
            interval: bootstrap.mean(&totals).map(|interval| interval.map(f64::exp)),
        }
    };
    ModelScore {
        total: of(values.iter().collect()),
        languages: by_language(values, text_of, texts).into_iter().map(|(name, part)| (name, of(part))).collect(),
    }
}

/// The scores of candidate `index`, total and per language.
pub(crate) fn candidate_scores(
    index: usize,
    values: &[WindowValues],
    text_of: &[usize],
    texts: &[Text],
    bootstrap: &Bootstrap,
) -> (Score, BTreeMap<String, Score>) {
    let of = |windows: Vec<&WindowValues>| score(index, &windows, bootstrap);
    let languages = by_language(values, text_of, texts).into_iter().map(|(name, part)| (name, of(part))).collect();
    (of(values.iter().collect()), languages)
}

fn score(index: usize, windows: &[&WindowValues], bootstrap: &Bootstrap) -> Score {
    let totals = |of: &dyn Fn(&WindowValues, &CandidateValues) -> Total| -> Vec<Total> {
        windows.iter().map(|window| of(window, &window.candidates[index])).collect()
    };
    let dense = totals(&|window, _| total(window.dense.iter().copied().map(f64::from)));
    let nll = totals(&|_, values| total(values.nll.iter().copied().map(f64::from)));
    let rise = totals(&|window, values| {
        total(values.nll.iter().zip(&window.dense).map(|(candidate, dense)| f64::from(*candidate) - f64::from(*dense)))
    });
    let kl = totals(&|_, values| total(values.kl.iter().copied().map(f64::from)));
    let agreement = totals(&|_, values| total(values.agreement.iter().map(|same| f64::from(u8::from(*same)))));
    let all_kl: Vec<f32> = windows.iter().flat_map(|window| window.candidates[index].kl.iter().copied()).collect();
    let ((nll, tokens), (dense, _), (rise_mean, _)) = (mean(&nll), mean(&dense), mean(&rise));
    Score {
        tokens,
        perplexity: nll.exp(),
        dense_perplexity: dense.exp(),
        increase: rise_mean.exp_m1(),
        increase_interval: bootstrap.mean(&rise).map(|interval| interval.map(f64::exp_m1)),
        kl: Summary::of(&all_kl).unwrap_or(Summary { n: 0, mean: f64::NAN, median: f64::NAN, p99: f64::NAN }),
        kl_interval: bootstrap.mean(&kl),
        agreement: mean(&agreement).0,
        agreement_interval: bootstrap.mean(&agreement),
    }
}

/// The windows of each language that a text names.
fn by_language<'a>(
    values: &'a [WindowValues],
    text_of: &[usize],
    texts: &[Text],
) -> BTreeMap<String, Vec<&'a WindowValues>> {
    let mut languages: BTreeMap<String, Vec<&WindowValues>> = BTreeMap::new();
    for (window, text) in values.iter().zip(text_of) {
        if let Some(language) = &texts[*text].language {
            languages.entry(language.clone()).or_default().push(window);
        }
    }
    languages
}

fn total(values: impl Iterator<Item = f64>) -> Total {
    values.fold(Total::default(), |total, value| Total { sum: total.sum + value, n: total.n + 1 })
}

/// The mean per token, and the number of tokens.
fn mean(totals: &[Total]) -> (f64, usize) {
    let (sum, n) = totals.iter().fold((0.0, 0), |(sum, n), total| (sum + total.sum, n + total.n));
    (sum / n as f64, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two windows: one English with three tokens, one German with one.
    fn example() -> (Vec<WindowValues>, Vec<Text>) {
        let values = |nll: Vec<f32>, kl: Vec<f32>, agreement: Vec<bool>| vec![CandidateValues { nll, kl, agreement }];
        let windows = vec![
            WindowValues {
                dense: vec![1.0, 2.0, 3.0],
                candidates: values(vec![1.5, 2.5, 3.5], vec![0.1, 0.2, 0.3], vec![true, true, false]),
            },
            WindowValues { dense: vec![2.0], candidates: values(vec![2.0], vec![0.0], vec![true]) },
        ];
        let text = |language: &str| Text { language: Some(language.into()), sequences: Vec::new() };
        (windows, vec![text("en"), text("de")])
    }

    #[test]
    fn tokens_count_alike_over_windows() {
        let (values, texts) = example();
        let (total, languages) = candidate_scores(0, &values, &[0, 1], &texts, &Bootstrap::default());
        assert_eq!(total.tokens, 4);
        assert!((total.dense_perplexity.ln() - 2.0).abs() < 1e-12);
        assert!((total.perplexity.ln() - 2.375).abs() < 1e-12);
        assert!((total.increase - (0.375f64.exp() - 1.0)).abs() < 1e-12);
        assert!((total.increase - (total.perplexity / total.dense_perplexity - 1.0)).abs() < 1e-12);
        assert!((total.kl.mean - 0.15).abs() < 1e-7 && (total.kl.median - 0.15).abs() < 1e-7, "{:?}", total.kl);
        assert_eq!(total.agreement, 0.75);
        assert_eq!(languages.keys().collect::<Vec<_>>(), ["de", "en"]);
        assert_eq!((languages["en"].tokens, languages["de"].tokens), (3, 1));
        assert!((languages["en"].increase - (0.5f64.exp() - 1.0)).abs() < 1e-12);
        assert_eq!(languages["de"].increase, 0.0);
        assert_eq!(languages["de"].increase_interval, None);
        let interval = total.increase_interval.unwrap();
        assert!(interval.low <= total.increase && total.increase <= interval.high);
    }

    #[test]
    fn dense_alone() {
        let (values, mut texts) = example();
        texts[1].language = None;
        let score = model_score(&values, &[0, 1], &texts, &Bootstrap::default());
        assert_eq!((score.total.windows, score.total.tokens), (2, 4));
        assert!((score.total.perplexity - 2f64.exp()).abs() < 1e-12);
        assert_eq!(score.languages.len(), 1, "a text without language counts in the total alone");
    }

    #[test]
    fn worst_language() {
        let (values, texts) = example();
        let (total, languages) = candidate_scores(0, &values, &[0, 1], &texts, &Bootstrap::default());
        let score = CandidateScore { name: "x".into(), total, languages, layers: Vec::new() };
        assert_eq!(score.worst_language().unwrap().0, "en");
    }
}
