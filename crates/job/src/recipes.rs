//! The recipes that come with Quench.

use std::path::Path;

use quench_quantize::Recipe;

use crate::JobError;

/// Names and texts, in the order in which they are listed.
const ALL: &[(&str, &str)] = &[
    ("gptq-int4-g128", include_str!("../../../configs/gptq-int4-g128.toml")),
    ("gptq-int4-act-order", include_str!("../../../configs/gptq-int4-act-order.toml")),
    ("gptq-int3-g128", include_str!("../../../configs/gptq-int3-g128.toml")),
    ("gptq-slog5-g128", include_str!("../../../configs/gptq-slog5-g128.toml")),
    ("gptq-int2-g64", include_str!("../../../configs/gptq-int2-g64.toml")),
    ("gptq-trellis3-g128", include_str!("../../../configs/gptq-trellis3-g128.toml")),
    ("gptq-trellis2-g128", include_str!("../../../configs/gptq-trellis2-g128.toml")),
    ("gguf-q4_0", include_str!("../../../configs/gguf-q4_0.toml")),
    ("gguf-iq4_nl", include_str!("../../../configs/gguf-iq4_nl.toml")),
    ("gguf-iq4_xs", include_str!("../../../configs/gguf-iq4_xs.toml")),
    ("gguf-q2_k", include_str!("../../../configs/gguf-q2_k.toml")),
    ("gguf-q3_k", include_str!("../../../configs/gguf-q3_k.toml")),
    ("gguf-q4_k", include_str!("../../../configs/gguf-q4_k.toml")),
    ("gguf-q5_k", include_str!("../../../configs/gguf-q5_k.toml")),
    ("gguf-q6_k", include_str!("../../../configs/gguf-q6_k.toml")),
    ("cascade-int8-int4", include_str!("../../../configs/cascade-int8-int4.toml")),
    ("rtn-int8", include_str!("../../../configs/rtn-int8.toml")),
    ("rtn-int4-g128", include_str!("../../../configs/rtn-int4-g128.toml")),
    ("rtn-nf4-g64", include_str!("../../../configs/rtn-nf4-g64.toml")),
];

/// The recipe that is used when none is named.
pub const DEFAULT: &str = "gptq-int4-g128";

/// Every embedded recipe: its name and its TOML.
pub fn all() -> &'static [(&'static str, &'static str)] {
    ALL
}

/// The TOML of an embedded recipe, or of the file at `name_or_path`.
///
/// # Errors
/// [`JobError::UnknownRecipe`] if it is neither, with the nearest name; [`JobError::Read`] if the file cannot be read.
pub fn text(name_or_path: &str) -> Result<String, JobError> {
    if let Some((_, text)) = ALL.iter().find(|(name, _)| *name == name_or_path) {
        return Ok((*text).to_owned());
    }
    let path = Path::new(name_or_path);
    if path.exists() || name_or_path.ends_with(".toml") {
        return std::fs::read_to_string(path).map_err(|source| JobError::Read { path: path.to_owned(), source });
    }
    let nearest = ALL.iter().map(|(name, _)| *name).min_by_key(|name| strsim::damerau_levenshtein(name, name_or_path));
    Err(JobError::UnknownRecipe { name: name_or_path.to_owned(), nearest: nearest.unwrap_or(DEFAULT) })
}

/// The embedded recipe of that name, or the one in the file at that path.
///
/// # Errors
/// As [`text`], and whatever [`Recipe::from_toml`] finds wrong, with the name of the file.
pub fn find(name_or_path: &str) -> Result<Recipe, JobError> {
    Recipe::from_toml(&text(name_or_path)?).map_err(|source| JobError::Recipe { file: name_or_path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_recipes_are_named_after_their_files() {
        for (name, _) in all() {
            assert_eq!(find(name).unwrap().name, *name);
        }
        assert!(find(DEFAULT).is_ok());
    }

    #[test]
    fn an_unknown_name_is_told_the_nearest() {
        let error = find("gptq-int4-g182").unwrap_err().to_string();
        assert!(error.contains("gptq-int4-g128"), "{error}");
        let error = find("absent.toml").unwrap_err().to_string();
        assert!(error.contains("absent.toml"), "{error}");
    }
}
