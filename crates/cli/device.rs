//! From `--device NAME[:N]` to a device that works.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use burn::tensor::{Device, DeviceType, Tensor};

use crate::failure;

/// The backends by name, in the order that `auto` tries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// NVIDIA, through CUDA.
    Cuda,
    /// AMD, through ROCm.
    Rocm,
    /// Apple, through Metal.
    Metal,
    /// Any GPU with a Vulkan driver, through SPIR-V.
    Vulkan,
    /// Any GPU that WebGPU reaches on its own API.
    Webgpu,
    /// Any GPU with a driver that wgpu knows, through WGSL.
    Wgpu,
    /// The CPU, Burn's default.
    Flex,
    /// The CPU, the reference.
    Ndarray,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Webgpu, Self::Wgpu, Self::Flex, Self::Ndarray];

    /// The name, which is also that of the cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Webgpu => "webgpu",
            Self::Wgpu => "wgpu",
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
        }
    }

    fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::Ndarray)
    }

    /// The name of its device `at`; there is one CPU, and it takes no number.
    pub fn of(self, at: usize) -> String {
        if self.is_cpu() { self.to_string() } else { format!("{self}:{at}") }
    }

    /// Burn's name for it, if it is compiled in.
    fn compiled(self) -> Option<DeviceType> {
        let compiled: &[(Self, DeviceType)] = &[
            #[cfg(feature = "cuda")]
            (Self::Cuda, DeviceType::Cuda),
            #[cfg(feature = "rocm")]
            (Self::Rocm, DeviceType::Rocm),
            #[cfg(feature = "metal")]
            (Self::Metal, DeviceType::Metal),
            #[cfg(feature = "vulkan")]
            (Self::Vulkan, DeviceType::Vulkan),
            #[cfg(feature = "webgpu")]
            (Self::Webgpu, DeviceType::WebGpu),
            #[cfg(feature = "wgpu")]
            (Self::Wgpu, DeviceType::Wgpu),
            #[cfg(feature = "flex")]
            (Self::Flex, DeviceType::Flex),
            #[cfg(feature = "ndarray")]
            (Self::Ndarray, DeviceType::NdArray),
        ];
        compiled.iter().find(|(backend, _)| *backend == self).map(|(_, kind)| kind.clone())
    }

    /// Whether the backend is compiled in, and which devices it sees. Never panics.
    pub fn probe(self) -> Probe {
        let Some(kind) = self.compiled() else { return Probe::NotCompiled };
        // An absent driver panics inside Burn rather than being an error.
        match failure::catch(|| Device::enumerate(kind).iter().cloned().collect::<Vec<_>>()) {
            Ok(devices) => Probe::Compiled(devices.into_iter().map(|device| self.open(device)).collect()),
            Err(panic) => Probe::Broken(panic.text()),
        }
    }

    fn open(self, device: Device) -> Found {
        if self.is_cpu() {
            return Found { device, name: "CPU".to_owned(), kind: Kind::Cpu, fault: None };
        }
        match failure::catch(|| identity(&device)) {
            Ok((name, kind)) => {
                // The SPIR-V of the `vulkan` feature brings Mesa's software driver down, process and all.
                let crashes = kind == Kind::Software && cfg!(feature = "vulkan");
                let fault = crashes.then(|| {
                    "the SPIR-V of the `vulkan` feature crashes a software driver; build with `wgpu` alone".to_owned()
                });
                Found { device, name, kind, fault }
            }
            Err(panic) => Found { device, name: "unknown".to_owned(), kind: Kind::Gpu, fault: Some(panic.text()) },
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What came of looking for a backend's devices.
#[derive(Debug)]
pub enum Probe {
    /// The cargo feature is off.
    NotCompiled,
    /// Looking failed.
    Broken(String),
    /// These were seen, in the order of `:N`; maybe none.
    Compiled(Vec<Found>),
}

/// A device that was seen.
#[derive(Debug)]
pub struct Found {
    /// The device.
    pub device: Device,
    /// The name that the driver gives it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Why it could not be opened, or must not be used.
    fault: Option<String>,
}

impl Found {
    /// Why the device cannot be used: computes a product on it, as a driver may be there and not work.
    pub fn fault(&self) -> Option<String> {
        let compute = || failure::catch(|| works(&self.device)).err().map(|panic| panic.text());
        self.fault.clone().or_else(compute)
    }
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor, by a backend made for it.
    Cpu,
    /// A card.
    Gpu,
    /// The processor behind the driver of a card.
    Software,
}

#[cfg(feature = "cube")]
fn identity(device: &Device) -> (String, Kind) {
    match device.identity() {
        Some(identity) if identity.physical.is_some() => (identity.name, Kind::Gpu),
        Some(identity) => (identity.name, Kind::Software),
        None => (String::new(), Kind::Gpu),
    }
}

#[cfg(not(feature = "cube"))]
fn identity(_: &Device) -> (String, Kind) {
    (String::new(), Kind::Cpu)
}

/// A product of two small matrices.
fn works(device: &Device) {
    let ones = Tensor::<2>::ones([8, 8], device);
    let found = ones.clone().matmul(ones).sum().into_scalar::<f32>();
    assert!(found == 512.0, "a product that is 512 came out as {found}");
}

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best that works here.
    Auto,
    /// The N-th device of a backend, or its best.
    Of(Backend, Option<usize>),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, index)) => {
                (name, Some(index.parse().map_err(|_| format!("{index:?} is not the number of a device"))?))
            }
        };
        let backend = Backend::ALL.into_iter().find(|backend| backend.name() == name);
        match (name, backend, index) {
            ("auto", _, None) => Ok(Self::Auto),
            ("auto", ..) => Err("`auto` takes no number".to_owned()),
            (_, Some(backend), index) => Ok(Self::Of(backend, index)),
            _ => Err(format!("{name:?} is none of auto, {}", Backend::ALL.map(Backend::name).join(", "))),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Of(backend, None) => write!(f, "{backend}"),
            Self::Of(backend, Some(index)) => write!(f, "{backend}:{index}"),
        }
    }
}

impl Wanted {
    /// The device; for `auto` the first GPU that works in the order of [`Backend::ALL`], else the CPU.
    ///
    /// # Errors
    /// If it is not compiled in (naming the cargo feature), absent, or does not work (naming what there is).
    pub fn resolve(self) -> anyhow::Result<Device> {
        Ok(self.resolve_named()?.1)
    }

    /// As [`resolve`](Self::resolve), with the name by which `--device` takes the very device.
    pub fn resolve_named(self) -> anyhow::Result<(String, Device)> {
        match self {
            Self::Auto => automatic(),
            Self::Of(backend, index) => pick(backend, index, backend.probe()),
        }
    }
}

fn automatic() -> anyhow::Result<(String, Device)> {
    for backend in Backend::ALL {
        if let Probe::Compiled(found) = backend.probe() {
            let mut found = found.into_iter().enumerate();
            let usable = found.find(|(_, found)| found.kind != Kind::Software && found.fault().is_none());
            if let Some((at, found)) = usable {
                return Ok((backend.of(at), found.device));
            }
        }
    }
    bail!("no device works here; build with `--features flex` to compute on the CPU")
}

fn pick(backend: Backend, index: Option<usize>, probe: Probe) -> anyhow::Result<(String, Device)> {
    let mut found = match probe {
        Probe::Compiled(found) => found,
        Probe::NotCompiled => bail!(
            "device `{backend}` is not compiled in; build with `--features {backend}`, or use one of: {}",
            available(backend)
        ),
        Probe::Broken(reason) => {
            bail!("no {backend} device can be listed: {reason}; use one of: {}", available(backend))
        }
    };
    if found.is_empty() {
        bail!("no {backend} device is present (no driver, or no card); use one of: {}", available(backend));
    }
    // A card before the software driver that stands in for one, and what can be opened before what cannot.
    let best = || (0..found.len()).min_by_key(|&at| (found[at].fault.is_some(), found[at].kind == Kind::Software));
    let index = index.or_else(best).unwrap_or(0);
    if index >= found.len() {
        let names: Vec<_> =
            found.iter().enumerate().map(|(at, found)| format!("{backend}:{at} ({})", found.name)).collect();
        bail!("there is no device {backend}:{index}; there is {}", names.join(", "));
    }
    let found = found.swap_remove(index);
    match found.fault() {
        None => Ok((backend.of(index), found.device)),
        Some(fault) => bail!(
            "device {backend}:{index} ({}) does not work: {fault}; use one of: {}",
            found.name,
            available(backend)
        ),
    }
}

/// Names of the devices of other backends that work here.
fn available(except: Backend) -> String {
    let mut names = vec!["auto".to_owned()];
    for backend in Backend::ALL.into_iter().filter(|backend| *backend != except) {
        if let Probe::Compiled(found) = backend.probe() {
            let working = found.iter().enumerate().filter(|(_, found)| found.fault().is_none());
            names.extend(working.map(|(at, _)| backend.of(at)));
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, expected) in [
            ("auto", Some(Wanted::Auto)),
            ("flex", Some(Wanted::Of(Backend::Flex, None))),
            ("cuda:3", Some(Wanted::Of(Backend::Cuda, Some(3)))),
            ("vulkan:0", Some(Wanted::Of(Backend::Vulkan, Some(0)))),
            ("auto:1", None),
            ("cuda:", None),
            ("cuda:-1", None),
            ("gpu", None),
            ("", None),
        ] {
            let found = text.parse::<Wanted>().ok();
            assert_eq!(found, expected, "{text}");
            assert!(found.is_none_or(|wanted| wanted.to_string() == text), "{text}");
        }
    }

    #[test]
    fn every_backend_can_be_probed() {
        for backend in Backend::ALL {
            let probe = backend.probe();
            assert_eq!(matches!(probe, Probe::NotCompiled), backend.compiled().is_none(), "{backend}");
        }
    }

    #[test]
    fn absent_devices_are_explained() {
        let none = pick(Backend::Vulkan, None, Probe::Compiled(Vec::new())).unwrap_err().to_string();
        assert!(none.contains("no vulkan device is present") && none.contains("auto"), "{none}");
        let off = pick(Backend::Rocm, None, Probe::NotCompiled).unwrap_err().to_string();
        assert!(off.contains("--features rocm"), "{off}");
        let broken = pick(Backend::Wgpu, None, Probe::Broken("boom".into())).unwrap_err().to_string();
        assert!(broken.contains("boom"), "{broken}");
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_best_device_is_picked_and_a_wrong_number_explained() {
        let found = |name: &str, kind, fault: Option<&str>| Found {
            device: Device::flex(),
            name: name.to_owned(),
            kind,
            fault: fault.map(str::to_owned),
        };
        let all = || {
            Probe::Compiled(vec![
                found("llvmpipe", Kind::Software, None),
                found("broken card", Kind::Gpu, Some("boom")),
                found("card", Kind::Gpu, None),
            ])
        };
        assert!(pick(Backend::Wgpu, None, all()).is_ok());
        assert!(pick(Backend::Wgpu, Some(0), all()).is_ok());
        let broken = pick(Backend::Wgpu, Some(1), all()).unwrap_err().to_string();
        assert!(broken.contains("wgpu:1 (broken card) does not work: boom"), "{broken}");
        let beyond = pick(Backend::Wgpu, Some(3), all()).unwrap_err().to_string();
        assert!(beyond.contains("no device wgpu:3") && beyond.contains("wgpu:2 (card)"), "{beyond}");
    }
}
