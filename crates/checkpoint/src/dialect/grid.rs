//! What the configuration of a checkpoint says of its packed layers, where they are not all alike.

use quench_format::{Packed, Scheme};
use serde_json::Value;

use super::{Dialect, Unwritable, awq, compressed, gptq};

/// What a configuration says of a packed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// How it is coded.
    pub scheme: Scheme,
    /// Whether its columns have an order that is stored.
    pub ordered: bool,
}

impl From<&Packed> for Grid {
    fn from(packed: &Packed) -> Self {
        Self { scheme: packed.scheme(), ordered: packed.parts().order.is_some() }
    }
}

impl Dialect {
    /// The `quantization_config` of a checkpoint with these packed layers: that of the grid which most of them are on, and what is
    /// different in the others, as far as the dialect has words for it.
    ///
    /// - `layers`: at least one, in the order in which they are to be named
    /// - `dense`: the matrices that are not packed
    ///
    /// Errors: grids of which the configuration can only name one.
    ///
    /// # Panics
    ///
    /// Where there is no layer.
    pub fn config_of(self, layers: &[(&str, Grid)], dense: &[String]) -> Result<Value, Unwritable> {
        let count = |grid: Grid| layers.iter().filter(|(_, other)| *other == grid).count();
        // The first of the most frequent ones.
        let rule = layers.iter().rev().map(|(_, grid)| *grid).max_by_key(|grid| count(*grid));
        let rule =
            rule.unwrap_or_else(|| panic!("a configuration of {self} describes packed layers, and there are none"));
        let others: Vec<_> = layers.iter().copied().filter(|(_, grid)| *grid != rule).collect();
        let mut config = self.config(rule, dense);
        if self == Self::Gptq && layers.iter().any(|(layer, _)| *layer == "lm_head") {
            gptq::with_head(&mut config);
        }
        if others.is_empty() {
            return Ok(config);
        }
        match self {
            Self::Gptq => gptq::except(&mut config, rule, &others)?,
            Self::Compressed => compressed::except(&mut config, &others),
            Self::Awq => awq::alike(rule, &others)?,
            // Their readers ask each layer.
            Self::Native | Self::Bitsandbytes | Self::Gguf => {}
        }
        Ok(config)
    }
}
