//! The thread that trains and rounds, and what others see of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::thread;

use burn::tensor::Device;
use quench::job::{Frame, JobError, LayerView, ModelLayers, Study, StudySettings};
use quench::quantize::ScaleSearch;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Steps of training between two frames.
const EVERY: usize = 25;

/// A layer and a scheme to round it by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Its name.
    pub layer: String,
    /// As `int4/128/f16`.
    pub scheme: String,
    /// How scales are found.
    pub search: ScaleSearch,
}

/// What is asked of the thread, numbered.
#[derive(Debug)]
enum Order {
    Settings(u64, StudySettings),
    Layer(u64, Wish),
}

/// An answer on the wire.
#[derive(Debug, Serialize)]
pub struct Answer<T> {
    /// The number of the order that it answers.
    pub version: u64,
    /// What was found.
    #[serde(flatten)]
    pub found: Found<T>,
}

/// What was found, or why nothing was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found<T> {
    /// A frame, or the view of a layer.
    Value(T),
    /// In words.
    Error(String),
}

/// Where orders are given, and answers lie.
#[derive(Clone, Debug)]
pub struct Desk {
    orders: Sender<Order>,
    numbers: Arc<AtomicU64>,
    /// The last frame, as JSON; empty before the first one.
    pub frames: watch::Receiver<Arc<str>>,
    /// The last view of a layer, as JSON; empty before the first one.
    pub layers: watch::Receiver<Arc<str>>,
}

impl Desk {
    /// Asks for other settings; the number that frames with them will have. `None` if the thread has ended.
    pub fn set(&self, settings: StudySettings) -> Option<u64> {
        self.order(|number| Order::Settings(number, settings))
    }

    /// Asks for the view of a layer.
    pub fn look(&self, wish: Wish) -> Option<u64> {
        self.order(|number| Order::Layer(number, wish))
    }

    fn order(&self, order: impl FnOnce(u64) -> Order) -> Option<u64> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        self.orders.send(order(number)).ok().map(|()| number)
    }
}

/// Starts the thread, with the default settings.
pub fn start(layers: Option<ModelLayers>, device: Device) -> Result<Desk, JobError> {
    let (orders, waiting) = channel();
    let (frames, seen) = watch::channel(Arc::from(""));
    let (views, viewed) = watch::channel(Arc::from(""));
    let study = Study::new(StudySettings::default(), &device)?;
    let mut worker = Worker { study, version: 0, layers, device, frames, views };
    thread::spawn(move || while worker.turn(&waiting).is_continue() {});
    Ok(Desk { orders, numbers: Arc::default(), frames: seen, layers: viewed })
}

struct Worker {
    study: Study,
    version: u64,
    layers: Option<ModelLayers>,
    device: Device,
    frames: watch::Sender<Arc<str>>,
    views: watch::Sender<Arc<str>>,
}

impl Worker {
    /// Takes what waits, of settings and layers the last; then trains for some steps, or waits if there is nothing to train.
    fn turn(&mut self, waiting: &Receiver<Order>) -> ControlFlow<()> {
        let mut next = if self.study.is_trained() {
            match waiting.recv() {
                Ok(order) => Some(order),
                Err(RecvError) => return ControlFlow::Break(()),
            }
        } else {
            None
        };
        let (mut settings, mut wish) = (None, None);
        loop {
            match next.take() {
                Some(Order::Settings(number, wanted)) => settings = Some((number, wanted)),
                Some(Order::Layer(number, wanted)) => wish = Some((number, wanted)),
                None => {}
            }
            match waiting.try_recv() {
                Ok(order) => next = Some(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
        if let Some((number, wish)) = wish {
            let found = self.look(&wish);
            publish(&self.views, number, found);
        }
        let changed = settings.is_some();
        if let Some((number, wanted)) = settings {
            self.version = number;
            if let Err(error) = self.set(wanted) {
                publish::<Frame>(&self.frames, number, Err(error));
                return ControlFlow::Continue(());
            }
        }
        if changed || !self.study.is_trained() {
            self.study.train(EVERY);
            publish(&self.frames, self.version, self.study.frame());
        }
        ControlFlow::Continue(())
    }

    fn set(&mut self, wanted: StudySettings) -> Result<(), JobError> {
        if wanted.trains_as(self.study.settings()) {
            self.study.requantized(wanted)
        } else {
            self.study = Study::new(wanted, &self.device)?;
            Ok(())
        }
    }

    fn look(&mut self, wish: &Wish) -> Result<LayerView, JobError> {
        let layers =
            self.layers.as_mut().ok_or(JobError::Setting { name: "layer", range: "one of a model; none was given" })?;
        layers.view(&wish.layer, &wish.scheme, wish.search)
    }
}

fn publish<T: Serialize>(to: &watch::Sender<Arc<str>>, version: u64, found: Result<T, JobError>) {
    let found = found.map_or_else(|error| Found::Error(error.to_string()), Found::Value);
    let json = serde_json::to_string(&Answer { version, found });
    // Numbers and names are always JSON.
    to.send_replace(json.unwrap_or_default().into());
}
