//! What one pass of a batch through a section leaves for the next.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Device, Tensor};
use quench_nn::Tap;

use crate::stats::rows;

/// Activations of one batch that do not change any more, `[count, features]` by their sites.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    at: BTreeMap<String, Tensor<2>>,
}

/// A tap that goes no further than another looks: it starts from what an earlier pass has [kept](Kept), keeps what the next
/// pass needs not compute again, and computes nothing behind the last site of interest.
///
/// Layers are quantized site by site, and each site is seen through the quantized layers before it. Without this, every site
/// would cost a pass through the whole block; with it, all of them together cost one.
pub(crate) struct Passage<'a, T> {
    inner: &'a mut T,
    kept: &'a mut Kept,
    /// Bytes that may yet be kept.
    room: &'a mut usize,
    /// The first site whose readers change after this pass: nothing behind it is kept. `None` once it is passed.
    change: Option<&'a str>,
    /// Sites of interest that are still to come.
    awaited: BTreeSet<String>,
    /// Behind the last of them: what stands for activations that nobody looks at.
    over: Option<(Device, DType)>,
    /// What was taken or kept since the activation that is being computed was begun.
    used: Vec<String>,
}

impl<'a, T: Tap> Passage<'a, T> {
    /// A pass to the last of the `awaited` sites, after which the readers of `change` are quantized.
    pub(crate) fn to(
        awaited: BTreeSet<String>,
        change: &'a str,
        inner: &'a mut T,
        kept: &'a mut Kept,
        room: &'a mut usize,
    ) -> Self {
        Self { inner, kept, room, change: Some(change), awaited, over: None, used: Vec::new() }
    }

    /// A pass to the end, after which everything is passed on.
    pub(crate) fn through(inner: &'a mut T, kept: &'a mut Kept, room: &'a mut usize) -> Self {
        Self { inner, kept, room, change: None, awaited: BTreeSet::new(), over: None, used: Vec::new() }
    }

    fn keep<const D: usize>(&mut self, site: &str, x: &Tensor<D>) {
        if self.change.is_none() {
            return;
        }
        for site in self.used.drain(..) {
            if let Some(x) = self.kept.at.remove(&site) {
                *self.room += bytes(&x);
            }
        }
        let bytes = bytes(x);
        if let Some(room) = self.room.checked_sub(bytes) {
            *self.room = room;
            self.kept.at.insert(site.to_owned(), rows(x.clone()));
        }
    }
}

impl<T: Tap> Tap for Passage<'_, T> {
    fn is_over(&self) -> bool {
        self.over.is_some()
    }

    fn sees(&self, site: &str) -> bool {
        self.over.is_none() && (self.inner.sees(site) || self.awaited.contains(site))
    }

    fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
        if self.over.is_some() {
            return x;
        }
        if self.change == Some(site) {
            self.change = None;
        }
        if self.awaited.remove(site) && self.awaited.is_empty() {
            self.over = Some((x.device(), x.dtype()));
        }
        self.inner.tap(site, x)
    }

    fn reach<const D: usize>(
        &mut self,
        site: &str,
        shape: [usize; D],
        compute: impl FnOnce(&mut Self) -> Tensor<D>,
    ) -> Tensor<D> {
        if let Some((device, dtype)) = &self.over {
            return Tensor::zeros(shape, (device, *dtype));
        }
        let x = match self.kept.at.get(site) {
            Some(x) => x.clone().reshape(shape),
            None => {
                let before = std::mem::take(&mut self.used);
                let x = compute(self);
                self.keep(site, &x);
                self.used = before;
                x
            }
        };
        self.used.push(site.to_owned());
        self.tap(site, x)
    }
}

fn bytes<const D: usize>(x: &Tensor<D>) -> usize {
    x.dims().iter().product::<usize>() * x.dtype().size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::host;

    /// What came by, and where.
    #[derive(Default)]
    struct Log(Vec<(String, f32)>);

    impl Tap for Log {
        fn tap<const D: usize>(&mut self, site: &str, x: Tensor<D>) -> Tensor<D> {
            self.0.push((site.to_owned(), host(x.clone())[0]));
            x
        }
    }

    /// A block of two halves, each with an input, a middle and a sum; what was computed is counted.
    fn block(x: f32, weights: [f32; 4], computed: &mut Vec<&'static str>, tap: &mut impl Tap) -> f32 {
        let half = |x: Tensor<2>, names: [&'static str; 3], w: [f32; 2], tap: &mut _, computed: &mut Vec<_>| {
            let whole = |tap: &mut _| {
                let y = Tap::tap(tap, names[0], x.clone() + 1.0);
                let y = Tap::reach(tap, names[1], [1, 1], |_| {
                    computed.push(names[1]);
                    y * w[0]
                });
                computed.push(names[2]);
                x.clone() + y * w[1]
            };
            reach(tap, names[2], whole)
        };
        let x = Tensor::from_floats([[x]], &Device::flex());
        let x = half(x, ["a.input", "a.middle", "a.sum"], [weights[0], weights[1]], tap, computed);
        let x = half(x, ["b.input", "b.middle", "b.sum"], [weights[2], weights[3]], tap, computed);
        host(x)[0]
    }

    fn reach<T: Tap>(tap: &mut T, site: &str, compute: impl FnOnce(&mut T) -> Tensor<2>) -> Tensor<2> {
        tap.reach(site, [1, 1], compute)
    }

    /// Weights change site by site, each after it was seen; returns what was computed and seen.
    fn walk(room: usize) -> (Vec<&'static str>, Vec<(String, f32)>, f32, usize) {
        let (mut kept, mut left) = (Kept::default(), room);
        let (mut computed, mut log) = (Vec::new(), Log::default());
        let mut weights = [1.0, 2.0, 3.0, 4.0];
        for (index, site) in ["a.input", "a.middle", "b.input", "b.middle"].into_iter().enumerate() {
            let mut seen = Log::default();
            let mut passage = Passage::to(BTreeSet::from([site.to_owned()]), site, &mut seen, &mut kept, &mut left);
            block(10.0, weights, &mut computed, &mut passage);
            log.0.extend(seen.0.into_iter().filter(|(other, _)| other == site));
            weights[index] += 0.5;
        }
        let mut none = 0;
        let y = block(10.0, weights, &mut computed, &mut Passage::through(&mut (), &mut kept, &mut none));
        (computed, log.0, y, left)
    }

    #[test]
    fn everything_is_computed_once_and_with_the_weights_of_its_time() {
        let (computed, seen, y, _) = walk(1 << 10);
        // What is behind the site of a pass is not computed, but for the sums around it, whose value nobody reads.
        assert_eq!(
            computed.iter().filter(|site| site.ends_with("middle")).collect::<Vec<_>>(),
            [&"a.middle", &"b.middle"]
        );
        let middle = 1.5 * 11.0;
        let sum = 10.0 + 2.5 * middle;
        let expected =
            [("a.input", 11.0), ("a.middle", middle), ("b.input", sum + 1.0), ("b.middle", 3.5 * (sum + 1.0))];
        assert_eq!(seen, expected.map(|(site, x)| (site.to_owned(), x)));
        assert_eq!(y, sum + 4.5 * 3.5 * (sum + 1.0));
        let plain = block(10.0, [1.5, 2.5, 3.5, 4.5], &mut Vec::new(), &mut ());
        assert_eq!(y, plain);
    }

    #[test]
    fn what_there_is_no_room_for_is_computed_again() {
        let (frugal, seen, y, left) = walk(0);
        let (_, same_seen, same_y, _) = walk(1 << 10);
        assert_eq!((seen, y, left), (same_seen, same_y, 0));
        assert_eq!(frugal.iter().filter(|site| **site == "a.middle").count(), 4);
    }
}
