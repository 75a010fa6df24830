//! Spark's text: documents drawn from the two grammars, and the held-out part that no training line repeats.

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::grammar::Grammar;

/// A language and its grammar.
pub struct Language {
    /// The code that names its files: `text/evaluation/en.txt`.
    pub code: &'static str,
    grammar: &'static str,
}

/// The languages of spark.
pub const LANGUAGES: [Language; 2] = [
    Language { code: "en", grammar: include_str!("grammar/english.txt") },
    Language { code: "de", grammar: include_str!("grammar/german.txt") },
];

/// Documents of one language, one a line.
pub struct Text {
    /// What the model learns from.
    pub training: Vec<String>,
    /// For the statistics of quantizers. No training line repeats one of these.
    pub calibration: Vec<String>,
    /// For perplexity. No line of the two others repeats one of these.
    pub evaluation: Vec<String>,
}

impl Language {
    /// Draws `training` bytes to learn from, `held_out` bytes for evaluation and twice as many for calibration.
    pub fn text(&self, seed: u64, training: usize, held_out: usize) -> Result<Text> {
        let grammar = Grammar::parse(self.grammar).map_err(|error| format!("grammar {}: {error}", self.code))?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut seen = HashSet::new();
        let mut draw = |bytes: usize, apart: bool, learned: &HashSet<&String>| -> Result<Vec<String>> {
            let (mut lines, mut size) = (Vec::new(), 0);
            while size < bytes {
                let line = grammar.document(&mut random)?;
                // Held-out lines are all different. Training lines may repeat one another, but none of those.
                if learned.contains(&line) || seen.contains(&line) || (apart && !seen.insert(line.clone())) {
                    continue;
                }
                size += line.len() + 1;
                lines.push(line);
            }
            Ok(lines)
        };
        let evaluation = draw(held_out, true, &HashSet::new())?;
        let mut calibration = draw(held_out, true, &HashSet::new())?;
        let training = draw(training, false, &HashSet::new())?;
        // A default recipe wants more than one file's worth; drawn last, so that nothing before it changes.
        calibration.extend(draw(held_out, true, &training.iter().collect())?);
        Ok(Text { training, calibration, evaluation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text_and_nothing_held_out_is_learned() {
        for language in &LANGUAGES {
            let text = language.text(7, 200_000, 10_000).unwrap();
            assert_eq!(text.training, language.text(7, 200_000, 10_000).unwrap().training);
            let training: HashSet<_> = text.training.iter().collect();
            assert!(text.calibration.iter().chain(&text.evaluation).all(|line| !training.contains(line)));
            assert!(text.training.iter().all(|line| !line.contains(['{', '}', '|', '\n'])), "{}", language.code);
        }
    }
}
