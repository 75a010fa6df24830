//! What must be kept, and whether it is.

use std::fmt;
use std::str::FromStr;

use quench_metrics::{Interval, Metric, beyond_chance};
use serde::{Deserialize, Serialize};

use super::{ContrastSettings, Lowest, Scoring, Site, metric};
use crate::JobError;

/// The least score of a metric, beyond chance; typed as `cka=0.9`, or `coherence=0.9` for all that were named.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The metric; `None` for the lowest of all.
    pub metric: Option<Metric>,
    /// The score, 0 to 1.
    pub least: f64,
}

impl FromStr for Floor {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let (name, least) = text.split_once('=').unwrap_or((text, ""));
        let metric = if name == "coherence" { None } else { Some(metric(name)?) };
        let least: f64 = least.parse().map_err(|_| JobError::Floor { text: text.to_owned() })?;
        if (0.0..=1.0).contains(&least) {
            Ok(Self { metric, least })
        } else {
            Err(JobError::Floor { text: text.to_owned() })
        }
    }
}

/// What became of a floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floored {
    /// The floor.
    pub floor: Floor,
    /// Where the score is lowest; empty for predictions.
    pub site: String,
    /// The lowest score, beyond chance; `None` if there is none.
    pub score: Option<f64>,
    /// Its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Whether it is kept.
    pub held: Held,
}

/// Whether a floor is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Held {
    /// The score is above, with its whole interval where it has one.
    Kept,
    /// It is below.
    Missed,
    /// The interval has the floor inside, or there is no value.
    Inconclusive {
        /// Samples that would probably tell; `None` where more would not help.
        needed: Option<usize>,
    },
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Missed => f.write_str("missed"),
            Self::Inconclusive { needed: Some(needed) } => write!(f, "inconclusive; about {needed} samples would tell"),
            Self::Inconclusive { needed: None } => f.write_str("inconclusive"),
        }
    }
}

/// Every score there is: where, and of what.
fn scored<'a>(predictions: &'a [Scoring], sites: &'a [Site]) -> impl Iterator<Item = (&'a str, &'a Scoring)> {
    let inside = sites.iter().flat_map(|site| site.metrics.iter().map(|scoring| (site.site.as_str(), scoring)));
    predictions.iter().map(|scoring| ("", scoring)).chain(inside)
}

/// The lowest score of the metrics that count.
pub(super) fn lowest(predictions: &[Scoring], sites: &[Site], counts: impl Fn(Metric) -> bool) -> Option<Lowest> {
    scored(predictions, sites)
        .filter(|(_, scoring)| counts(scoring.metric))
        .filter_map(|(site, scoring)| {
            let score = scoring.value.as_ref()?.beyond_chance();
            Some(Lowest { metric: scoring.metric, site: site.to_owned(), score })
        })
        .min_by(|a, b| a.score.total_cmp(&b.score))
}

pub(super) fn floored(
    settings: &ContrastSettings,
    predictions: &[Scoring],
    sites: &[Site],
    coherence: Option<&Lowest>,
) -> Vec<Floored> {
    let judged = |floor: &Floor| {
        let low = match floor.metric {
            Some(metric) => lowest(predictions, sites, |other| other == metric),
            None => coherence.cloned(),
        };
        let of = |metric: Metric| scored(predictions, sites).filter(move |(_, scoring)| scoring.metric == metric);
        let Some(low) = low else {
            let needed = floor.metric.and_then(|metric| of(metric).find_map(|(_, scoring)| scoring.needed));
            return Floored {
                floor: *floor,
                site: String::new(),
                score: None,
                interval: None,
                held: Held::Inconclusive { needed },
            };
        };
        let value = of(low.metric).find(|(site, _)| *site == low.site).and_then(|(_, scoring)| scoring.value.as_ref());
        let null = value.and_then(|value| value.null).unwrap_or(0.0);
        let interval = value.and_then(|value| value.interval).map(|interval| interval.map(|x| beyond_chance(x, null)));
        let held = held(low.score, interval, floor.least, value.map_or(0, |value| value.n));
        Floored { floor: *floor, site: low.site, score: Some(low.score), interval, held }
    };
    settings.floors.iter().map(judged).collect()
}

/// By the interval where there is one; it narrows as the root of the number of samples.
fn held(score: f64, interval: Option<Interval>, least: f64, n: usize) -> Held {
    let Interval { low, high, .. } = interval.unwrap_or(Interval { low: score, high: score, level: 1.0 });
    if low >= least {
        return Held::Kept;
    }
    if high < least {
        return Held::Missed;
    }
    let times = ((high - low) / 2.0 / (score - least)).powi(2);
    Held::Inconclusive { needed: times.is_finite().then(|| (n as f64 * times.max(1.0)).ceil() as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_are_read_or_refused() {
        assert_eq!("cka=0.9".parse::<Floor>().unwrap(), Floor { metric: Some(Metric::Cka), least: 0.9 });
        assert_eq!("kl=1".parse::<Floor>().unwrap().metric, Some(Metric::ExpKl));
        assert_eq!("coherence=0.5".parse::<Floor>().unwrap().metric, None);
        let error = "ckaa=0.9".parse::<Floor>().unwrap_err().to_string();
        assert!(error.contains("ckaa") && error.contains("cka") && error.contains("trustworthiness"), "{error}");
        for text in ["cka", "cka=", "cka=x", "cka=1.5", "cka=NaN"] {
            assert!(text.parse::<Floor>().unwrap_err().to_string().contains(text), "{text}");
        }
    }

    /// An interval of 0.1 to each side of 0.9 with 100 samples; a floor at 0.85 needs half of that.
    #[test]
    fn an_open_floor_says_how_many_would_tell() {
        let interval = |low, high| Some(Interval { low, high, level: 0.95 });
        assert_eq!(held(0.9, interval(0.86, 0.94), 0.85, 100), Held::Kept);
        assert_eq!(held(0.8, interval(0.76, 0.84), 0.85, 100), Held::Missed);
        assert_eq!(held(0.9, interval(0.8, 1.0), 0.85, 100), Held::Inconclusive { needed: Some(400) });
        assert_eq!(held(0.85, interval(0.8, 0.9), 0.85, 100), Held::Inconclusive { needed: None });
        assert_eq!((held(0.9, None, 0.9, 5), held(0.8, None, 0.9, 5)), (Held::Kept, Held::Missed));
    }
}
