//! What two models have in common, as sections of a report.

use quench_metrics::Value;
use quench_report::{Document, Gate, Measure, Number, Run, Verdict};

use super::{name, number};
use crate::{Contrasted, Held, Scoring, Site};

/// What a file of `quench measure` says: its numbers, the shapes of each site, and its maps.
pub fn contrasted(found: &Contrasted) -> Document {
    let run_name = format!("{}, measured", name(&found.approximation));
    let mut measures = Vec::new();
    let scored = |scoring: &Scoring, site: Option<&Site>| {
        let of = site.map_or(String::new(), |site| format!(", {}", site.site));
        let value = scoring.value.as_ref()?;
        Some(Measure { name: format!("{}{of}", scoring.metric), unit: String::new(), number: number(value) })
    };
    if let Some(lowest) = &found.coherence {
        let by = format!("lowest score beyond chance: {} {}", lowest.metric, lowest.site);
        let n = found.sites.first().map_or(0, |site| site.vectors);
        measures.push(measured("coherence", "", &Value::measured(lowest.score, by, n)));
    }
    measures.extend(found.predictions.iter().filter_map(|scoring| scored(scoring, None)));
    measures.extend(found.divergences.iter().map(|named| measured(&named.name, &named.unit, &named.value)));
    for site in &found.sites {
        measures.extend(site.metrics.iter().filter_map(|scoring| scored(scoring, Some(site))));
        for (side, corners) in ["reference", "approximation"].into_iter().zip(site.corners.iter().flatten()) {
            let name = format!("coordinates near corners, {side}, {}", site.site);
            measures.push(measured(&name, "share", &corners.h_coord));
        }
        let latent =
            |named: &crate::Named| measured(&format!("{}, {}", named.name, site.site), &named.unit, &named.value);
        measures.extend(site.latent.iter().map(latent));
    }
    let gate = |floored: &crate::Floored| Gate {
        name: match floored.floor.metric {
            Some(metric) => format!("{metric} {}", floored.site),
            None => format!("coherence {}", floored.site),
        },
        limit: floored.floor.least,
        language: None,
        found: floored.score.map(|score| Number {
            interval: floored.interval.map(super::interval),
            ..Number::new(score, quench_report::Evidence::Measured)
        }),
        verdict: match floored.held {
            Held::Kept => Verdict::Passed,
            Held::Missed => Verdict::Failed,
            Held::Inconclusive { .. } => Verdict::Inconclusive,
        },
        remark: match floored.held {
            Held::Inconclusive { .. } => floored.held.to_string(),
            Held::Kept | Held::Missed => String::new(),
        },
    };
    // What is said of several sites is said once.
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for (site, note) in found.sites.iter().flat_map(|site| site.notes.iter().map(|note| (site.site.as_str(), note))) {
        match notes.iter_mut().find(|(other, _)| other == note) {
            Some((_, sites)) => sites.push(site),
            None => notes.push((note, vec![site])),
        }
    }
    let notes = notes.into_iter().map(|(note, sites)| format!("{note} ({})", sites.join(", ")));
    Document {
        runs: vec![Run {
            name: run_name,
            model: name(&found.reference),
            measures,
            gates: found.floors.iter().map(gate).collect(),
            notes: notes.collect(),
            ..Run::default()
        }],
        shapes: found.sites.iter().filter_map(|site| site.shape.clone()).collect(),
        maps: found.sites.iter().filter_map(|site| site.map.clone()).collect(),
        ..Document::default()
    }
}

fn measured(name: &str, unit: &str, value: &Value) -> Measure {
    Measure { name: name.to_owned(), unit: unit.to_owned(), number: number(value) }
}
