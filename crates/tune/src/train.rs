//! The loop: batches, gradients, steps, evaluations, and what is kept of them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::lr_scheduler::composed::ComposedLrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use quench_format::Packed;
use quench_kernels::Activations;
use quench_nn::{LayerInfo, Model, Tap, Weight};
use quench_quantize::{Matrix, QuantizeError, Stats};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::lora::merge;
use crate::state::State;
use crate::trained::{Form, Kind, Origin, Trained};
use crate::{Method, Point, Settings, Teacher, TuneError, host};

/// What a model is trained on and judged by; both come with what the teacher says of them, batch by batch.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a, I> {
    /// Batches to train on.
    pub train: &'a [I],
    /// Batches to judge by.
    pub held_out: &'a [I],
    /// The teacher on the first.
    pub train_teacher: &'a Teacher,
    /// The teacher on the second.
    pub held_out_teacher: &'a Teacher,
}

/// What happens during a run, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An earlier run had done so many steps.
    Resumed {
        /// Steps done.
        step: usize,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: usize,
        /// Steps in all.
        of: usize,
        /// The divergence from the teacher on its batches, in nats per row, before the step.
        loss: f64,
        /// The norm of all gradients together.
        norm: f64,
    },
    /// An evaluation is done.
    Evaluated {
        /// It.
        point: Point,
        /// Whether it is the best so far.
        best: bool,
    },
    /// An adapter was merged into codes.
    Merged(&'a Merged),
}

/// An adapter that has become codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The layer.
    pub layer: String,
    /// The part of the energy of its output that became error.
    pub output_loss: Option<f64>,
}

/// The result of a run: the best that was seen.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The trained layers in their schemes.
    pub layers: BTreeMap<String, Packed>,
    /// The trained vectors.
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// Every evaluation; the first is before the first step.
    pub points: Vec<Point>,
    /// The loss of every step.
    pub losses: Vec<f64>,
    /// Which evaluation was best: the result is the state of that step.
    pub best: Point,
    /// What merging cost, where there were adapters.
    pub merged: Vec<Merged>,
    /// The divergence of the result as it is stored, on what was held out.
    pub kl: f64,
}

/// Trains the packed layers of a model to say what the teacher says.
///
/// - `model`: loaded as a whole, on a device with autodiff; afterwards it has the result in it
/// - `packed`: its packed layers by their names
/// - `dense`: the dense matrix of a layer, where there is one: a start for weights and adapters
/// - `run`: what the state on disk is of, in words that differ where model or data do; the settings are added to it
/// - `folder`: where the state is kept; a run that was broken off goes on from there, with the losses that it would have had
/// - `observe`: called with every [`Event`]; breaking out of it ends the run after its state was kept
///
/// The loss is [`Targets::divergence`](crate::Targets::divergence), by AdamW of Burn with a line up and half a cosine down.
///
/// # Errors
///
/// [`TuneError::Diverged`] with the step and the tensor where numbers are not finite, the last state whose loss was finite staying on disk;
/// [`TuneError::Interrupted`]; and whatever is wrong with settings, layers or files.
#[expect(clippy::too_many_arguments, reason = "five inputs of different kinds, and where to write and whom to tell")]
pub fn tune<M: Model>(
    model: &mut M,
    packed: &BTreeMap<String, Packed>,
    dense: &dyn Fn(&str) -> Option<Matrix>,
    data: &Data<'_, M::Input>,
    settings: &Settings,
    run: &str,
    folder: &Path,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Tuned, TuneError> {
    settings.check()?;
    for (batches, name) in [(data.train, "training"), (data.held_out, "held-out")] {
        if batches.is_empty() {
            return Err(TuneError::NoBatches(name));
        }
    }
    fs::create_dir_all(folder).map_err(|source| TuneError::File { path: folder.to_owned(), source })?;
    model.set_activations(Activations::F32);
    let device = device_of(model)?;
    let stats = match settings.method {
        Method::Lora { recover: true, .. } => Some(inputs(model, packed, settings, data.train)),
        _ => None,
    };
    let gram = |info: &LayerInfo| stats.as_ref()?.gram(&info.site).cloned();
    let trained = Trained::new(model, packed, settings, &Origin { dense, gram: &gram }, &device)?;
    let optimizer = |decay: f64| AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay as f32).build();
    let mut this = Run {
        model,
        data,
        settings,
        device,
        trained,
        optimizers: [optimizer(settings.decay), optimizer(0.0)],
        moments: BTreeMap::new(),
        schedule: schedule(settings)?,
        state: State::default(),
        path: folder.join("state.safetensors"),
        run: format!("{run} {}", serde_json::to_string(settings).unwrap_or_default()),
        kept: None,
    };
    this.resume(observe)?;
    this.train(observe)?;
    this.finish(packed, observe)
}

/// A run under way.
struct Run<'a, M: Model> {
    model: &'a mut M,
    data: &'a Data<'a, M::Input>,
    settings: &'a Settings,
    device: Device,
    trained: Trained,
    /// With weight decay, and without.
    optimizers: [AdamW; 2],
    moments: BTreeMap<String, AdamWState<2>>,
    schedule: ModuleLrScheduler,
    state: State,
    path: PathBuf,
    run: String,
    /// Steps done in the state on disk.
    kept: Option<usize>,
}

impl<M: Model> Run<'_, M> {
    /// Takes up the state on disk, if there is one.
    fn resume(&mut self, observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<(), TuneError> {
        if !self.path.exists() {
            return Ok(());
        }
        self.state = State::read(&self.run, &self.path)?;
        self.kept = Some(self.state.step);
        let mut kept = self.state.tensors.clone();
        for (name, ..) in self.trained.tensors() {
            // A tensor that no gradient has reached yet has no moments.
            let moment = |part: usize| kept.clone().take(&format!("{name}#{part}"), &self.path);
            let (Ok((shape, first)), Ok((_, second))) = (moment(1), moment(2)) else { continue };
            let [moment_1, moment_2] =
                [first, second].map(|m| Tensor::from_data(TensorData::new(m, shape), &self.device.clone().inner()));
            let mut momentum = AdaptiveMomentumState::new(self.state.step, moment_1, moment_2);
            momentum.time = self.state.step;
            self.moments.insert(name, AdamWState::new(momentum));
        }
        self.trained.restore(&mut kept, &self.path, &self.device)?;
        (0..self.state.step).for_each(|_| drop(self.schedule.step()));
        self.tell(observe(Event::Resumed { step: self.state.step }))
    }

    fn train(&mut self, observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<(), TuneError> {
        loop {
            let step = self.state.step;
            let due = step.is_multiple_of(self.settings.evaluate) || step == self.settings.steps;
            if due && self.state.points.last().is_none_or(|point| point.step < step) {
                self.judge(observe)?;
            }
            if step >= self.settings.steps || self.is_idle() {
                return self.keep();
            }
            let due = step.is_multiple_of(self.settings.save) && self.kept != Some(step);
            let before = due.then(|| self.captured());
            let (loss, norm) = self.step()?;
            // Only now is it known that the state was good: its loss and its gradients were finite.
            if let Some(before) = before {
                self.write(before)?;
            }
            self.state.step += 1;
            self.state.losses.push(loss);
            self.tell(observe(Event::Step { step: step + 1, of: self.settings.steps, loss, norm }))?;
        }
    }

    /// Whether the last evaluations were no better than one before.
    fn is_idle(&self) -> bool {
        let best = self.best();
        self.state.points.iter().filter(|point| point.step > best.step).count() >= self.settings.patience
    }

    /// The first of the best evaluations.
    fn best(&self) -> Point {
        let points = self.state.points.iter().copied();
        points.min_by(|a, b| a.kl.total_cmp(&b.kl)).unwrap_or(Point { step: 0, kl: f64::INFINITY })
    }

    fn judge(&mut self, observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<(), TuneError> {
        self.trained.install(self.model, false);
        let point = Point { step: self.state.step, kl: self.divergence()? };
        let best = point.kl < self.best().kl;
        self.state.points.push(point);
        if best {
            self.state.best = self.trained.snapshot();
        }
        self.tell(observe(Event::Evaluated { point, best }))
    }

    /// The mean over rows of what was held out, with the model as it is.
    fn divergence(&mut self) -> Result<f64, TuneError> {
        let (mut sum, mut rows) = (0.0, 0);
        for (index, batch) in self.data.held_out.iter().enumerate() {
            let targets = self.data.held_out_teacher.targets(index, &self.device)?;
            let loss = targets.divergence(self.model.forward(batch.clone(), &mut ()));
            let loss = f64::from(host(loss)[0]);
            if !loss.is_finite() {
                return Err(self.diverged(batch));
            }
            sum += loss * targets.rows() as f64;
            rows += targets.rows();
        }
        Ok(sum / rows as f64)
    }

    /// One step; returns its loss and the norm of its gradients.
    fn step(&mut self) -> Result<(f64, f64), TuneError> {
        let settings = self.settings;
        let mut gradients: BTreeMap<String, Tensor<2>> = BTreeMap::new();
        let mut loss = 0.0;
        for part in 0..settings.accumulate {
            let index = turn(self.state.step * settings.accumulate + part, self.data.train.len(), settings.seed);
            let batch = &self.data.train[index];
            let targets = self.data.train_teacher.targets(index, &self.device)?;
            self.trained.install(self.model, true);
            let divergence =
                targets.divergence(self.model.forward(batch.clone(), &mut ())) / settings.accumulate as f64;
            let value = f64::from(host(divergence.clone())[0]);
            if !value.is_finite() {
                return Err(self.diverged(batch));
            }
            loss += value;
            let found = divergence.backward();
            for (name, _, tensor) in self.trained.tensors() {
                let Some(gradient) = tensor.grad(&found) else { continue };
                let sum = match gradients.remove(&name) {
                    Some(before) => before + gradient,
                    None => gradient,
                };
                gradients.insert(name, sum);
            }
        }
        let norm = self.norm(&gradients)?;
        let shorter = if norm > settings.clip { settings.clip / norm } else { 1.0 };
        let factor = self.schedule.step().base();
        for (name, kind, tensor) in self.trained.tensors() {
            let Some(gradient) = gradients.remove(&name) else { continue };
            let optimizer = &self.optimizers[usize::from(!kind.decays())];
            let rate = factor * Kind::rate(kind, &settings.rates);
            let (value, moments) =
                optimizer.step(rate, tensor.clone().inner(), gradient.mul_scalar(shorter), self.moments.remove(&name));
            *tensor = Tensor::from_inner(value).require_grad();
            self.moments.extend(moments.map(|moments| (name, moments)));
        }
        Ok((loss, norm))
    }

    /// The norm of all gradients together.
    fn norm(&self, gradients: &BTreeMap<String, Tensor<2>>) -> Result<f64, TuneError> {
        // All at once, so that a device is waited for once.
        let squares = gradients.values().map(|gradient| gradient.clone().square().sum()).collect::<Vec<_>>();
        if squares.is_empty() {
            return Ok(0.0);
        }
        let squares = host(Tensor::cat(squares, 0));
        match gradients.keys().zip(&squares).find(|(_, square)| !square.is_finite()) {
            Some((name, _)) => {
                let tensor = format!("the gradient of {name}");
                Err(TuneError::Diverged { step: self.state.step, tensor, kept: self.kept })
            }
            None => Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt()),
        }
    }

    /// What is not finite: a trained tensor, or the first activation that is not.
    fn diverged(&mut self, batch: &M::Input) -> TuneError {
        let infinite = |x: &Tensor<2>| host(x.clone()).iter().any(|x| !x.is_finite());
        let found = self.trained.tensors().into_iter().find(|(_, _, x)| infinite(x)).map(|(name, ..)| name);
        let tensor = found.unwrap_or_else(|| {
            self.trained.install(self.model, false);
            let mut first = First::default();
            self.model.forward(batch.clone(), &mut first);
            first.0.map_or("the loss".to_owned(), |site| format!("the activation at {site}"))
        });
        TuneError::Diverged { step: self.state.step, tensor, kept: self.kept }
    }

    /// The state as it would be written.
    fn captured(&mut self) -> State {
        let mut tensors = self.trained.snapshot();
        for (name, state) in &self.moments {
            for (part, moment) in [(1, &state.momentum.moment_1), (2, &state.momentum.moment_2)] {
                tensors.put(format!("{name}#{part}"), moment.dims(), host(moment.clone()));
            }
        }
        State { tensors, ..self.state.clone() }
    }

    fn write(&mut self, state: State) -> Result<(), TuneError> {
        state.write(&self.run, &self.path)?;
        self.kept = Some(state.step);
        Ok(())
    }

    fn keep(&mut self) -> Result<(), TuneError> {
        let state = self.captured();
        self.write(state)
    }

    fn tell(&mut self, flow: ControlFlow<()>) -> Result<(), TuneError> {
        if flow.is_continue() {
            return Ok(());
        }
        self.keep()?;
        Err(TuneError::Interrupted { step: self.state.step })
    }

    /// The best state as packed layers, put into the model and judged once more.
    fn finish(
        mut self,
        packed: &BTreeMap<String, Packed>,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Tuned, TuneError> {
        let mut best = self.state.best.clone();
        self.trained.restore(&mut best, &self.path, &self.device)?;
        self.trained.install(self.model, false);
        let mut merged = Vec::new();
        let mut layers = BTreeMap::new();
        // Adapters are merged for the inputs that they have with all others in place.
        let stats = match self.settings.method {
            Method::Lora { .. } => Some(inputs(self.model, packed, self.settings, self.data.train)),
            Method::Qat | Method::Norms => None,
        };
        for layer in &self.trained.layers {
            let name = layer.info.name.clone();
            let packed = match (&layer.form, layer.form.adapted(false)) {
                (Form::Step(step), _) => {
                    step.to_packed().map_err(|source| TuneError::Format { layer: name.clone(), source })?
                }
                (Form::Adapter { .. }, adapted) => {
                    let gram = stats.as_ref().and_then(|stats| stats.gram(&layer.info.site));
                    let (Some(adapted), Some(gram)) = (adapted, gram) else {
                        let (layer, method) = (name, "merging adapters");
                        return Err(QuantizeError::NoCalibration { layer, method }.into());
                    };
                    let found = merge(&name, &adapted, &self.settings.merge, gram)?;
                    merged.push(Merged { layer: name.clone(), output_loss: found.output_loss });
                    if let Some(merged) = merged.last()
                        && observe(Event::Merged(merged)).is_break()
                    {
                        return Err(TuneError::Interrupted { step: self.state.step });
                    }
                    found.packed
                }
            };
            layers.insert(name, packed);
        }
        put(self.model, &layers, &self.device);
        let kl = self.divergence()?;
        let (vectors, best) = (self.trained.vectors(), self.best());
        Ok(Tuned { layers, vectors, best, merged, kl, points: self.state.points, losses: self.state.losses })
    }
}

/// Puts packed layers into a model, their products exact.
fn put<M: Model>(model: &mut M, layers: &BTreeMap<String, Packed>, device: &Device) {
    for section in model.sections() {
        for part in model.open(section) {
            if let Some(packed) = layers.get(&part.name) {
                *part.weight = Weight::packed(packed, device);
                part.weight.set_activations(Activations::F32);
            }
        }
    }
}

/// The Gram matrices of the inputs of all layers that are trained.
fn inputs<M: Model>(model: &M, packed: &BTreeMap<String, Packed>, settings: &Settings, batches: &[M::Input]) -> Stats {
    /// Sequences beyond these say nothing new.
    const BATCHES: usize = 64;
    let layers = model.layers().into_iter();
    let chosen = layers.filter(|info| packed.contains_key(&info.name) && settings.names(info));
    let mut stats = Stats::at(chosen.map(|info| info.site).filter(|site| !site.is_empty()));
    for batch in batches.iter().take(BATCHES) {
        model.forward(batch.clone(), &mut stats);
    }
    stats
}

/// The device of the first weight.
fn device_of<M: Model>(model: &mut M) -> Result<Device, TuneError> {
    use burn::module::Module;
    for section in model.sections() {
        if let Some(part) = model.open(section).into_iter().next() {
            return Ok(part.weight.devices().into_iter().next().unwrap_or_default());
        }
    }
    Err(TuneError::NothingToTrain { targets: Vec::new(), layers: Vec::new() })
}

/// Which batch comes as the `position`-th: all of them in an order of their own in each round.
fn turn(position: usize, batches: usize, seed: u64) -> usize {
    let (round, place) = (position / batches, position % batches);
    let mut order: Vec<usize> = (0..batches).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed.wrapping_add(round as u64)));
    order[place]
}

/// Rates over their peak: up in a line, down half a cosine.
fn schedule(settings: &Settings) -> Result<ModuleLrScheduler, TuneError> {
    let rising = ((settings.warmup * settings.steps as f64) as usize).max(1);
    let line = LinearLrSchedulerConfig::new(1.0 / rising as f64, 1.0, rising);
    let cosine = CosineAnnealingLrSchedulerConfig::new(1.0, settings.steps).with_min_lr(settings.floor);
    let composed = ComposedLrSchedulerConfig::new().linear(line).cosine(cosine);
    composed.init().map_err(|found| TuneError::Setting { key: "warmup", found, expected: "a schedule" })
}

/// A tap that remembers the first site with a number that is not finite.
#[derive(Default)]
struct First(Option<String>);

impl Tap for First {
    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        if self.0.is_none() && host(x.clone()).iter().any(|x| !x.is_finite()) {
            self.0 = Some(site.to_owned());
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use quench_nn::Section;

    use super::*;
    use crate::testing::{NAMES, Net};

    struct Bench {
        folder: tempfile::TempDir,
        train: Vec<Tensor<2>>,
        held_out: Vec<Tensor<2>>,
        teachers: [Teacher; 2],
    }

    impl Bench {
        fn new() -> Self {
            let (plain, folder) = (Device::flex(), tempfile::tempdir().unwrap());
            let net = Net::dense(&plain);
            let ask = |seed, count, name: &str| {
                let (batches, path) = (Net::batches(count, seed, &plain), folder.path().join(name));
                let teacher = Teacher::ask(&net, &batches, 10, "net", &path, &mut |_| ControlFlow::Continue(()));
                (Net::batches(count, seed, &plain.clone().autodiff()), teacher.unwrap())
            };
            let ((train, first), (held_out, second)) = (ask(100, 16, "train"), ask(200, 4, "held-out"));
            Self { train, held_out, teachers: [first, second], folder }
        }

        fn run(
            &self,
            scheme: &str,
            settings: &Settings,
            name: &str,
            observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        ) -> (Net, Result<Tuned, TuneError>) {
            let (mut net, packed) = Net::rounded(scheme, &Device::flex().autodiff());
            let [train_teacher, held_out_teacher] = &self.teachers;
            let data = Data { train: &self.train, held_out: &self.held_out, train_teacher, held_out_teacher };
            let dense = |name: &str| NAMES.iter().position(|found| *found == name).map(|at| Net::weights()[at].clone());
            let folder = self.folder.path().join(name);
            let tuned = tune(&mut net, &packed, &dense, &data, settings, "net", &folder, observe);
            (net, tuned)
        }
    }

    fn go_on(_: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn settings(method: Method) -> Settings {
        let rates = crate::Rates { weights: 2e-2, scales: 1e-2, gains: 1e-2, adapters: 5e-3 };
        Settings { method, rates, steps: 60, evaluate: 10, save: 7, ..Settings::default() }
    }

    const LORA: Method = Method::Lora { rank: 3, strength: 2.0, recover: true };

    /// Both methods come nearer to the teacher than they began; what is stored is what was judged; and codes that are not trained stay.
    #[test]
    fn every_method_comes_nearer_to_the_teacher() {
        let bench = Bench::new();
        let (_, before) = Net::rounded("int2/8/f16", &Device::flex());
        let mut gains = Vec::new();
        for method in [Method::Norms, Method::Qat] {
            let settings = Settings { steps: 200, patience: 100, ..settings(method.clone()) };
            let (mut net, tuned) = bench.run("int2/8/f16", &settings, method.name(), &mut go_on);
            let tuned = tuned.unwrap();
            assert!((tuned.kl - tuned.best.kl).abs() < 1e-5 * tuned.kl, "{} {}", tuned.kl, tuned.best.kl);
            assert_eq!(tuned.points[0].step, 0);
            gains.push(tuned.kl / tuned.points[0].kl);
            for (name, packed) in &before {
                let same = tuned.layers[name].codes() == packed.codes();
                assert_eq!(same, method == Method::Norms, "{name}");
                assert_eq!(tuned.layers[name].scheme(), packed.scheme());
            }
            assert!(tuned.vectors["blocks.0.norm.weight"].iter().any(|gain| *gain != 1.0));
            // The model has the result in it.
            let held = net.open(Section::Head).remove(0).weight.val();
            assert_eq!(host(held), tuned.layers[NAMES[1]].decode());
        }
        assert!(gains[0] < 0.9 && gains[1] < 0.95, "{gains:?}");
    }

    #[test]
    fn adapters_train_beside_codes_that_stay() {
        let bench = Bench::new();
        let (_, before) = Net::rounded("int2/8/f16", &Device::flex());
        let mut seen = Vec::new();
        let mut observe = |event: Event<'_>| {
            if let Event::Merged(merged) = event {
                seen.push(merged.clone());
            }
            ControlFlow::Continue(())
        };
        let (_, tuned) = bench.run("int2/8/f16", &settings(LORA), "lora", &mut observe);
        let tuned = tuned.unwrap();
        // It begins nearer than without the recovery, which is where the quantizer ended, and comes nearer yet.
        let Method::Lora { rank, strength, .. } = LORA else { unreachable!() };
        let plain = Settings { steps: 1, ..settings(Method::Lora { rank, strength, recover: false }) };
        let (_, plain) = bench.run("int2/8/f16", &plain, "plain", &mut go_on);
        let (plain, first, best) = (plain.unwrap().points[0].kl, tuned.points[0].kl, tuned.best.kl);
        assert!(first < 0.6 * plain && best < 0.99 * first, "{plain} {first} {best}");
        assert_eq!(tuned.merged, seen);
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|merged| merged.output_loss.unwrap() > 0.0));
        assert!(tuned.vectors.is_empty());

        // The codes beside the adapters, before they are merged.
        let (mut net, packed) = Net::rounded("int2/8/f16", &Device::flex().autodiff());
        let [train_teacher, held_out_teacher] = &bench.teachers;
        let data = Data { train: &bench.train, held_out: &bench.held_out, train_teacher, held_out_teacher };
        let stop = |event: Event<'_>| match event {
            Event::Step { step: 20, .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let folder = bench.folder.path().join("codes");
        let stopped = tune(&mut net, &packed, &|_| None, &data, &settings(LORA), "net", &folder, &mut { stop });
        assert!(matches!(stopped, Err(TuneError::Interrupted { step: 20 })));
        for (at, section) in [Section::Block(0), Section::Head].into_iter().enumerate() {
            let part = net.open(section).remove(0);
            let Weight::Adapted(adapted) = part.weight else { panic!("{} has no adapter", part.name) };
            assert_eq!(adapted.base.to_packed(), before[NAMES[at]]);
            assert!(host(adapted.lora.product()).iter().any(|x| *x != 0.0));
        }
    }

    /// Broken off after any step, between states on disk and at them, a run goes on to the same losses and the same bytes.
    #[test]
    fn a_run_that_is_broken_off_ends_as_one_that_is_not() {
        let bench = Bench::new();
        for method in [Method::Qat, LORA] {
            let settings = Settings { steps: 24, accumulate: 2, ..settings(method.clone()) };
            let name = |kind: &str| format!("{}-{kind}", method.name());
            let (_, whole) = bench.run("uint2/8/f16", &settings, &name("whole"), &mut go_on);
            let whole = whole.unwrap();
            assert_eq!(whole.losses.len(), 24);
            for last in [1, 7, 10, 13, 24] {
                let folder = name(&last.to_string());
                // Killed: the program ends without a last word, so the state is that of the last time that it was kept.
                let killed = bench.folder.path().join(&folder);
                let mut kept = None;
                let mut kill = |event: Event<'_>| match event {
                    Event::Step { step, .. } if step == last => {
                        kept = fs::read(killed.join("state.safetensors")).ok();
                        ControlFlow::Break(())
                    }
                    _ => ControlFlow::Continue(()),
                };
                let (_, stopped) = bench.run("uint2/8/f16", &settings, &folder, &mut kill);
                assert!(matches!(stopped, Err(TuneError::Interrupted { step }) if step == last));
                let stopped = fs::read(killed.join("state.safetensors")).unwrap();
                for state in [Some(stopped), kept] {
                    match state {
                        Some(state) => fs::write(killed.join("state.safetensors"), state).unwrap(),
                        None => fs::remove_file(killed.join("state.safetensors")).unwrap(),
                    }
                    let (_, resumed) = bench.run("uint2/8/f16", &settings, &folder, &mut go_on);
                    let resumed = resumed.unwrap();
                    assert_eq!(resumed.losses, whole.losses, "{folder}");
                    assert_eq!(resumed.points, whole.points);
                    assert_eq!((resumed.layers, resumed.vectors), (whole.layers.clone(), whole.vectors.clone()));
                }
            }
        }
        let other = Settings { seed: 1, ..settings(Method::Qat) };
        let (_, refused) = bench.run("uint2/8/f16", &other, "qat-whole", &mut go_on);
        assert!(matches!(refused, Err(TuneError::OtherRun { .. })));
    }

    /// Numbers that are not finite stop the run with their name, and leave the state before them as it was.
    #[test]
    fn a_diverging_run_stops_and_keeps_what_was_good() {
        let bench = Bench::new();
        // Scales beyond what a half can hold, after the first step.
        let rates = crate::Rates { scales: 1e38, ..settings(Method::Norms).rates };
        let mad = Settings { rates, save: 1, warmup: 0.0, patience: 100, ..settings(Method::Norms) };
        let (_, stopped) = bench.run("int2/8/f16", &mad, "mad", &mut go_on);
        let Err(TuneError::Diverged { step, tensor, kept }) = stopped else { panic!("it did not diverge") };
        assert_eq!((step, &*tensor, kept), (1, "the activation at head.input", Some(0)));
        let path = bench.folder.path().join("mad").join("state.safetensors");
        let run = format!("net {}", serde_json::to_string(&mad).unwrap());
        let state = State::read(&run, &path).unwrap();
        assert_eq!((state.step, state.losses.len()), (0, 0));
    }

    #[test]
    fn a_run_without_progress_ends_early() {
        let bench = Bench::new();
        let rates = crate::Rates { weights: 0.0, scales: 0.0, gains: 0.0, adapters: 0.0 };
        let still = Settings { rates, patience: 2, ..settings(Method::Norms) };
        let (_, tuned) = bench.run("int2/8/f16", &still, "still", &mut go_on);
        let tuned = tuned.unwrap();
        assert_eq!((tuned.losses.len(), tuned.best.step), (20, 0));
    }

    #[test]
    fn every_round_has_every_batch_once() {
        let rounds: Vec<Vec<usize>> =
            (0..3).map(|round| (0..7).map(|at| turn(round * 7 + at, 7, 5)).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert!(rounds[0] != rounds[1] && rounds[1] != rounds[2]);
    }
}
