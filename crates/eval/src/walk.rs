//! The dense model and its candidates side by side, block by block.

use std::cell::Cell;

use burn::tensor::{Device, Int, Tensor};
use quench_metrics::{agreement, kl_per_token, nll};
use quench_nn::{Model, Section};

use crate::EvalError;
use crate::batch::Batch;
use crate::layers::{Inputs, LayerErrors};
use crate::score::{CandidateValues, WindowValues};

/// A model on its way, with its name for errors.
pub(crate) struct Walker<'a, M> {
    pub name: String,
    pub model: &'a mut M,
}

impl<M: Model> Walker<'_, M> {
    fn load(&mut self, section: Section) -> Result<(), EvalError> {
        self.model.load(section).map_err(|source| EvalError::Load { model: self.name.clone(), source })
    }
}

/// One evaluation under way: the models, and what was measured so far.
pub(crate) struct Walk<'a, M> {
    /// The dense model.
    pub dense: Walker<'a, M>,
    /// The candidates.
    pub candidates: Vec<Walker<'a, M>>,
    /// For each candidate, the errors of its layers.
    pub layers: Vec<LayerErrors>,
    /// For each window, the values of its tokens.
    pub values: Vec<WindowValues>,
    /// For each window, the name of its text.
    pub names: Vec<String>,
    pub device: &'a Device,
}

/// The carries of one batch: the dense model's, then the candidates'.
type Carries<M> = Vec<<M as Model>::Carry>;

impl<'a, M: Model<Input = Tensor<2, Int>>> Walk<'a, M> {
    /// Steps that [`pass`](Self::pass) reports for a batch: one per section and model.
    pub(crate) fn steps_per_batch(&self) -> usize {
        (self.dense.model.blocks() + 2) * (1 + self.candidates.len())
    }

    /// Runs some batches through all models, loading one section at a time and releasing it after the last batch.
    ///
    /// - `recorded`: for each batch, whether its layers' outputs are compared
    /// - `step`: called after each step
    /// - `stopped`: set by `step` when the evaluation is to end
    ///
    /// # Errors
    ///
    /// If a section cannot be read, or logits are not finite.
    pub(crate) fn pass(
        &mut self,
        batches: &[Batch],
        recorded: &[bool],
        step: &mut dyn FnMut(),
        stopped: &Cell<bool>,
    ) -> Result<(), EvalError> {
        let go_on = || if stopped.get() { Err(EvalError::Interrupted) } else { Ok(()) };
        self.load(Section::Embedding)?;
        let mut carries = Vec::with_capacity(batches.len());
        for batch in batches {
            carries.push(self.start(batch, step));
            go_on()?;
        }
        self.release(Section::Embedding);

        for index in 0..self.dense.model.blocks() {
            let section = Section::Block(index);
            self.load(section)?;
            for (carries, recorded) in carries.iter_mut().zip(recorded) {
                let before = std::mem::take(carries);
                *carries = match recorded {
                    true => self.recorded_block(index, before, step),
                    false => self.block(index, before, step),
                };
                go_on()?;
            }
            self.release(section);
        }

        self.load(Section::Head)?;
        for ((batch, carries), recorded) in batches.iter().zip(carries).zip(recorded) {
            self.finish(batch, carries, *recorded, step)?;
            go_on()?;
        }
        self.release(Section::Head);
        Ok(())
    }

    fn load(&mut self, section: Section) -> Result<(), EvalError> {
        self.walkers().try_for_each(|walker| walker.load(section))
    }

    fn release(&mut self, section: Section) {
        self.walkers().for_each(|walker| walker.model.release(section));
    }

    /// The dense model, then the candidates.
    fn walkers(&mut self) -> impl Iterator<Item = &mut Walker<'a, M>> {
        [&mut self.dense].into_iter().chain(&mut self.candidates)
    }

    fn models(&self) -> impl Iterator<Item = &M> {
        [&*self.dense.model].into_iter().chain(self.candidates.iter().map(|walker| &*walker.model))
    }

    fn start(&self, batch: &Batch, step: &mut dyn FnMut()) -> Carries<M> {
        let input = batch.input(self.device);
        let start = |model: &M| {
            let carry = model.start(input.clone(), &mut ());
            step();
            carry
        };
        self.models().map(start).collect()
    }

    fn block(&self, index: usize, carries: Carries<M>, step: &mut dyn FnMut()) -> Carries<M> {
        let block = |(model, carry): (&M, M::Carry)| {
            let carry = model.block(index, carry, &mut ());
            step();
            carry
        };
        self.models().zip(carries).map(block).collect()
    }

    /// As [`block`](Self::block), and compares the outputs of the block's layers.
    fn recorded_block(&mut self, index: usize, carries: Carries<M>, step: &mut dyn FnMut()) -> Carries<M> {
        let mut inputs = Vec::new();
        let mut after = Vec::with_capacity(carries.len());
        for (model, carry) in self.models().zip(carries) {
            let mut seen = Inputs::default();
            after.push(model.block(index, carry, &mut seen));
            inputs.push(seen);
            step();
        }
        self.compare_layers(Section::Block(index), &inputs);
        after
    }

    /// Adds one batch's outputs of the layers of `section` to each candidate's errors.
    ///
    /// - `inputs`: the dense model's, then the candidates'
    fn compare_layers(&mut self, section: Section, inputs: &[Inputs]) {
        if let Some((dense, inputs)) = inputs.split_first() {
            for ((walker, inputs), errors) in self.candidates.iter_mut().zip(inputs).zip(&mut self.layers) {
                errors.add(section, (&mut *self.dense.model, dense), (&mut *walker.model, inputs));
            }
        }
    }

    /// The logits of one batch, and all that is measured on them. Only the dense model's and one candidate's logits
    /// are alive at a time.
    fn finish(
        &mut self,
        batch: &Batch,
        carries: Carries<M>,
        recorded: bool,
        step: &mut dyn FnMut(),
    ) -> Result<(), EvalError> {
        let targets = batch.targets(self.device);
        let mut inputs = Vec::new();
        let mut reference: Option<Tensor<2>> = None;
        let mut measured: Vec<CandidateValues> = Vec::new();
        let mut dense_nll = Vec::new();
        for (model, carry) in self.models().zip(carries) {
            let mut seen = Inputs::default();
            let logits = match recorded {
                true => model.finish(carry, &mut seen),
                false => model.finish(carry, &mut ()),
            };
            inputs.push(seen);
            let logits = batch.predictions(logits); // [scored, vocab]
            let likelihood = nll(logits.clone(), targets.clone());
            match &reference {
                None => {
                    dense_nll = likelihood;
                    reference = Some(logits);
                }
                Some(reference) => measured.push(CandidateValues {
                    nll: likelihood,
                    kl: kl_per_token(reference.clone(), logits.clone()),
                    agreement: agreement(reference.clone(), logits),
                }),
            }
            step();
        }
        if recorded {
            self.compare_layers(Section::Head, &inputs);
        }
        self.check_finite(batch, &self.dense.name, &dense_nll)?;
        for (walker, values) in self.candidates.iter().zip(&measured) {
            self.check_finite(batch, &walker.name, &values.nll)?;
            self.check_finite(batch, &walker.name, &values.kl)?;
        }
        for (row, window) in batch.windows.iter().enumerate() {
            let tokens = row * batch.scored()..(row + 1) * batch.scored();
            let part = |values: &CandidateValues| CandidateValues {
                nll: values.nll[tokens.clone()].to_vec(),
                kl: values.kl[tokens.clone()].to_vec(),
                agreement: values.agreement[tokens.clone()].to_vec(),
            };
            let candidates = measured.iter().map(part).collect();
            self.values[*window] = WindowValues { dense: dense_nll[tokens].to_vec(), candidates };
        }
        Ok(())
    }

    fn check_finite(&self, batch: &Batch, model: &str, values: &[f32]) -> Result<(), EvalError> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(token) => Err(EvalError::NonFinite {
                model: model.to_owned(),
                input: format!("evaluation text {}", self.names[batch.windows[token / batch.scored()]]),
            }),
        }
    }
}
