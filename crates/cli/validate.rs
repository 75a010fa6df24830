//! `quench validate`: every known answer, computed here.

use std::collections::BTreeSet;
use std::time::Instant;

use quench::metrics::{Check, Expected, known_answers};
use serde::Serialize;

use crate::args::Validate;
use crate::failure::Outcome;
use crate::format::{count, number, seconds};
use crate::json::Target;
use crate::progress::Progress;
use crate::table;
use crate::table::Column::{Number, Text};

/// One known answer, and what was found.
#[derive(Debug, Serialize)]
struct Answer {
    concept: &'static str,
    quantity: &'static str,
    expected: Expected,
    found: f64,
    passed: bool,
    seconds: f64,
}

/// Computes the known answers and prints a table.
pub fn run(arguments: &Validate) -> anyhow::Result<Outcome> {
    let json = arguments.json.as_deref().map(Target::new).transpose()?;
    let device = arguments.device.resolve()?;
    let all = [known_answers(), quench::quantize::known_answers(), quench::tune::known_answers()].concat();
    let concepts: BTreeSet<&str> = all.iter().map(|check| check.concept).collect();
    let wanted = |check: &&Check| {
        let given = &arguments.concepts;
        given.is_empty() || given.iter().any(|concept| check.concept.contains(&**concept))
    };
    let checks: Vec<&Check> = all.iter().filter(wanted).collect();
    if checks.is_empty() {
        let concepts: Vec<&str> = concepts.into_iter().collect();
        anyhow::bail!("no known answer is about {}; there are {}", arguments.concepts.join(", "), concepts.join(", "));
    }
    let mut progress = Progress::new(arguments.quiet);
    progress.phase("validate", checks.len());
    let mut answers = Vec::with_capacity(checks.len());
    for (done, check) in checks.into_iter().enumerate() {
        progress.step(done, check.concept);
        let clock = Instant::now();
        let (found, passed) = check.run(&device);
        let Check { concept, quantity, expected, .. } = *check;
        answers.push(Answer { concept, quantity, expected, found, passed, seconds: clock.elapsed().as_secs_f64() });
    }
    progress.end();

    table::print(&text(&answers))?;
    let failed = answers.iter().filter(|answer| !answer.passed).count();
    if let Some(json) = json {
        json.write(&answers)?;
    }
    if failed > 0 {
        anyhow::bail!("{} not found", count(failed, "known answer"));
    }
    Ok(Outcome::Done)
}

fn text(answers: &[Answer]) -> String {
    let columns = [Text("concept"), Text("quantity"), Number("expected"), Number("found"), Text("verdict")];
    let cells: Vec<[String; 5]> = answers
        .iter()
        .map(|answer| {
            [
                answer.concept.to_owned(),
                answer.quantity.to_owned(),
                answer.expected.to_string(),
                number(answer.found),
                if answer.passed { "pass" } else { "FAIL" }.to_owned(),
            ]
        })
        .collect();
    let passed = answers.iter().filter(|answer| answer.passed).count();
    let time: f64 = answers.iter().map(|answer| answer.seconds).sum();
    format!(
        "{}{passed} of {} found in {}\n",
        table::markdown(columns, &cells),
        count(answers.len(), "known answer"),
        seconds(time)
    )
}
