//! Changes of a decoder's weights that leave what it computes as it is.
//!
//! Where one matrix writes what another reads and nothing but a product stands between, both may be taken to another basis
//! together. A [`Joint`] is such a place, channel by channel; the residual stream of a model with RMS norms is one as a whole,
//! since such a norm does not see a rotation once its gain is part of the matrices behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use quench_checkpoint::{Edited, Source, dialect};
use quench_format::Rotation;
use quench_nn::{Seam, Section};

use super::Decoder;
use crate::config::{DecoderConfig, NormKind, Norms, Positions};
use crate::joint::{Cut, Joint};
use crate::{ModelError, mlp};

/// Seeds of the signs, so that no rotation undoes a part of another; 3 is that of [`rotation`](crate::mlp::rotation).
const RESIDUAL: u64 = 1;
const HEADS: u64 = 2;

impl Decoder {
    /// The joints of every block.
    fn joints(&self) -> impl Iterator<Item = (Section, Joint)> {
        self.blocks.iter().enumerate().flat_map(|(index, block)| {
            let joints = block.attention.joints(&block.before_attention).into_iter();
            let joints = joints.chain(block.mlp.joints(&block.before_mlp));
            joints.filter(Joint::is_open).map(move |joint| (Section::Block(index), joint))
        })
    }

    pub(super) fn seams_of(&self) -> Vec<Seam> {
        let seam = |(section, Joint { site, readers, source, .. })| Seam { site, section, readers, source };
        self.joints().map(seam).collect()
    }

    /// Divides each written channel of the given seams by its factor, and multiplies what reads it.
    ///
    /// - `factors`: for each [`Seam::site`], one for each channel that is written
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the checkpoint.
    ///
    /// # Panics
    ///
    /// If the factors of a seam are more or fewer than its channels.
    pub fn rescale(&mut self, factors: &BTreeMap<String, Vec<f32>>) -> Result<(), ModelError> {
        let mut edited = Edited::new(self.source().clone());
        for (_, joint) in self.joints() {
            let Some(factors) = factors.get(&joint.site) else { continue };
            let channels = joint.source.iter().max().map_or(0, |last| last + 1);
            assert_eq!(factors.len(), channels, "`{}` has {channels} channels", joint.site);
            for cut in &joint.reading {
                cut.scale(&mut edited, joint.source.iter().map(|&channel| f64::from(factors[channel])))?;
            }
            for cut in &joint.writing {
                cut.scale(&mut edited, factors.iter().map(|&factor| f64::from(factor).recip()))?;
            }
        }
        self.reopen(self.config().clone(), edited)
    }

    /// Turns the residual stream: the gains of norms become part of the matrices behind them, what writes to the stream is
    /// turned, and so is what reads it. A head that is the embedding again becomes a matrix of its own.
    ///
    /// Returns whether it was done: the norms must be RMS norms that stand before the layers, and no weight be packed.
    ///
    /// Source: Ashkboos et al. 2024, "SliceGPT" and "QuaRot".
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the checkpoint.
    pub fn turn_residual(&mut self) -> Result<bool, ModelError> {
        let config = self.config().clone();
        let fits = config.norm == NormKind::Rms && config.norms == Norms::Before && !self.has_packed();
        if !fits || config.positions != Positions::Rotary {
            return Ok(false);
        }
        let mut edited = Edited::new(self.source().clone());
        let rotation = Arc::new(Rotation::new(config.hidden_size, RESIDUAL));
        let embedding = self.embedding.output_cuts();
        let head = match &self.head {
            Some(head) => head.input_cut(),
            None => {
                let cuts = embedding.iter().map(|cut| Cut { tensor: "lm_head.weight".to_owned(), ..cut.clone() });
                let cuts: Vec<Cut> = cuts.collect();
                for (from, to) in embedding.iter().zip(&cuts) {
                    edited.copy(&from.tensor, &to.tensor)?;
                }
                cuts
            }
        };
        let behind = self.blocks.iter().flat_map(|block| {
            let inputs = |joint: Option<Joint>| joint.map(|joint| joint.reading).unwrap_or_default();
            let [attention, _] = block.attention.joints(&block.before_attention);
            let mlp = block.mlp.joints(&block.before_mlp).into_iter().next();
            [(&block.before_attention, inputs(Some(attention))), (&block.before_mlp, inputs(mlp))]
        });
        for (norm, readers) in behind.chain([(&self.norm, head)]) {
            for gain in norm.cuts() {
                let values = self.source().tensor(&gain.tensor)?.to_finite_f32()?;
                for reader in &readers {
                    reader.scale(&mut edited, values.iter().map(|&value| f64::from(value) + gain.one))?;
                }
                edited.put(&gain.tensor, &[gain.extent], vec![1.0 - gain.one as f32; gain.extent])?;
            }
            readers.iter().try_for_each(|reader| reader.turn(&mut edited, &rotation))?;
        }
        let outputs = self.blocks.iter().flat_map(|block| [block.attention.output(), block.mlp.output()]);
        let writers = outputs.flat_map(|layer| layer.output_cuts(0..layer.outputs()));
        embedding.into_iter().chain(writers).try_for_each(|writer| writer.turn(&mut edited, &rotation))?;
        self.reopen(DecoderConfig { tied: false, ..config }, edited)?;
        Ok(true)
    }

    /// Turns the values of each head, and what reads them.
    ///
    /// Returns whether it was done: no weight may be packed.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the checkpoint.
    pub fn turn_heads(&mut self) -> Result<bool, ModelError> {
        if self.has_packed() {
            return Ok(false);
        }
        let mut edited = Edited::new(self.source().clone());
        for block in &self.blocks {
            let rotation = Arc::new(Rotation::new(block.attention.head_dim(), HEADS));
            let [_, values] = block.attention.joints(&block.before_attention);
            values.reading.iter().chain(&values.writing).try_for_each(|cut| cut.turn(&mut edited, &rotation))?;
        }
        self.reopen(self.config().clone(), edited)?;
        Ok(true)
    }

    /// Turns what the last matrix of each block reads, which then is done each time that the network runs; see
    /// [`TURNED_MLP`](crate::TURNED_MLP).
    ///
    /// Returns whether it was done: no weight may be packed, and none turned before.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the checkpoint.
    pub fn turn_mlp(&mut self) -> Result<bool, ModelError> {
        if self.has_packed() || self.config().turned_mlp {
            return Ok(false);
        }
        let mut edited = Edited::new(self.source().clone());
        let rotation = Arc::new(mlp::rotation(self.config().intermediate_size));
        for block in &self.blocks {
            block.mlp.output().input_cut().iter().try_for_each(|cut| cut.turn(&mut edited, &rotation))?;
        }
        self.reopen(DecoderConfig { turned_mlp: true, ..self.config().clone() }, edited)?;
        Ok(true)
    }

    fn has_packed(&self) -> bool {
        !dialect::layers(&*self.source).is_empty()
    }

    fn reopen(&mut self, config: DecoderConfig, source: Edited) -> Result<(), ModelError> {
        let source: Arc<dyn Source> = Arc::new(source);
        let device = self.device().clone();
        *self = Self::new(config, source, &device)?;
        Ok(())
    }
}
