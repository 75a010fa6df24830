//! The levels of a code, and which of them a weight goes to.

use quench_format::{Bits, Code, Grid, published};

/// Which level a weight goes to.
#[derive(Clone, Copy)]
pub(super) enum Map {
    /// The nearest.
    Nearest,
    /// What the encoder of the code's own definition gives: [`published`] for its code, and the nearest for all others.
    Own,
}

/// The levels of a code and a map to them.
#[derive(Clone)]
pub(super) struct Levels {
    pub(super) grid: Grid,
    /// The width of the published codec, where its own map is asked for.
    published: Option<Bits>,
    /// By code, the codes of the next smaller and the next larger level; itself at the ends.
    pub(super) neighbours: Vec<[u16; 2]>,
}

impl Levels {
    pub(super) fn new(code: Code, map: Map) -> Self {
        let published = match (code, map) {
            (Code::PublishedLog { bits }, Map::Own) => Some(bits),
            _ => None,
        };
        let levels = code.levels();
        let mut rising: Vec<u16> = (0..levels.len()).map(|code| code as u16).collect();
        rising.sort_by(|a, b| levels[usize::from(*a)].total_cmp(&levels[usize::from(*b)]));
        let mut neighbours = vec![[0; 2]; levels.len()];
        for (rank, code) in rising.iter().enumerate() {
            let above = rising.get(rank + 1).unwrap_or(code);
            neighbours[usize::from(*code)] = [rising[rank.saturating_sub(1)], *above];
        }
        Self { grid: code.grid(), published, neighbours }
    }

    /// The code of `x`, a weight over its scale.
    #[inline]
    pub(super) fn code(&self, x: f32) -> u16 {
        match self.published {
            None => self.grid.nearest(x),
            Some(bits) => published::encode_one(bits, x),
        }
    }

    /// The magnitude that an absmax scale takes the largest weight to.
    pub(super) fn top(&self) -> f32 {
        if self.published.is_some() { 1.0 } else { self.grid.code().max_level() }
    }
}
