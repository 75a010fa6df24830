//! From numbers to places on an axis, and where its ticks are.

/// How numbers lie on an axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal differences are equally far apart.
    Linear,
    /// Equal ratios are. Numbers that are not above 0 have no place and are left out.
    Log,
    /// Names, the first at 0, the next at 1.
    Names(Vec<String>),
}

/// A scale with its range on an axis from 0 to 1.
#[derive(Clone, Debug)]
pub(crate) struct Ruler {
    log: bool,
    low: f64,
    high: f64,
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Ruler {
    /// A range that holds all numbers with a little room at both ends; of `Names`, each with half a place around it.
    pub(crate) fn new(scale: &Scale, numbers: impl Iterator<Item = f64>) -> Self {
        if let Scale::Names(names) = scale {
            let ticks = names.iter().enumerate().map(|(at, name)| (at as f64, name.clone())).collect();
            return Self { log: false, low: -0.6, high: names.len() as f64 - 0.4, ticks };
        }
        let log = *scale == Scale::Log;
        let on = |number: f64| if log { number.log10() } else { number };
        let placed = numbers.filter(|number| number.is_finite() && (!log || *number > 0.0)).map(on);
        let (mut low, mut high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // One number only: a decade around it, or what it is large.
        if high - low < 1e-9 * high.abs().max(1e-300) {
            let half = if log || high == 0.0 { 0.5 } else { high.abs() / 2.0 };
            (low, high) = (low - half, high + half);
        }
        let room = 0.04 * (high - low);
        // An axis that begins at 0 stays there.
        let (low, high) = (if low == 0.0 && !log { 0.0 } else { low - room }, high + room);
        let ticks = if log { log_ticks(low, high) } else { linear_ticks(low, high, 5.0) };
        Self { log, low, high, ticks }
    }

    /// Labels at these numbers, if there are any.
    pub(crate) fn with_ticks(self, ticks: &[f64]) -> Self {
        if ticks.is_empty() {
            return self;
        }
        Self { ticks: ticks.iter().map(|tick| (*tick, crate::rounded(*tick))).collect(), ..self }
    }

    /// Where `number` is, 0 to 1 inside the range; `None` if it has no place.
    pub(crate) fn place(&self, number: f64) -> Option<f64> {
        let number = if self.log { number.log10() } else { number };
        number.is_finite().then(|| (number - self.low) / (self.high - self.low))
    }

    /// Both ends, as numbers.
    pub(crate) fn ends(&self) -> (f64, f64) {
        let back = |x: f64| if self.log { 10f64.powf(x) } else { x };
        (back(self.low), back(self.high))
    }

    /// Whether it is logarithmic, and both ends as they are placed: `log10` of them then.
    pub(crate) fn raw(&self) -> (bool, f64, f64) {
        (self.log, self.low, self.high)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, about `count` of them.
fn linear_ticks(low: f64, high: f64, count: f64) -> Vec<(f64, String)> {
    let raw = (high - low) / count;
    let power = 10f64.powf(raw.log10().floor());
    let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0);
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    let large = low.abs().max(high.abs()) >= 1e6 || step < 1e-5;
    let label = |x: f64| if large { format!("{x:e}") } else { format!("{x:.digits$}") };
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|k| k as f64 * step).map(|x| (x, label(x))).collect()
}

/// Powers of ten, with 2 and 5 times them where there are few.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let inside = |x: &f64| (low..=high).contains(&x.log10());
    let of = |parts: &[f64], every: i32| -> Vec<f64> {
        let powers = (first..=last).filter(|power| power.rem_euclid(every) == 0);
        powers.flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power))).filter(inside).collect()
    };
    let powers = of(&[1.0], 1).len();
    let found = match powers {
        0 | 1 => {
            let few = of(&[1.0, 2.0, 5.0], 1);
            // Less than a factor of 2: as on a linear axis.
            if few.len() < 2 {
                return linear_ticks(10f64.powf(low), 10f64.powf(high), 4.0);
            }
            few
        }
        2 => of(&[1.0, 2.0, 5.0], 1),
        3..=7 => of(&[1.0], 1),
        more => of(&[1.0], more as i32 / 6 + 1),
    };
    found.into_iter().map(|x| (x, power_label(x))).collect()
}

fn power_label(x: f64) -> String {
    let exponent = (x.log10() + 1e-9).floor() as i32;
    match exponent {
        -3..=-1 => format!("{x:.*}", -exponent as usize),
        0..=4 => format!("{x:.0}"),
        _ => format!("{:.0}e{exponent}", x / 10f64.powi(exponent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, numbers: &[f64]) -> Vec<String> {
        Ruler::new(&scale, numbers.iter().copied()).ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(Scale::Linear, &[0.0, 10.0]), ["0", "5", "10"]);
        assert_eq!(labels(Scale::Linear, &[-0.02, 0.013]), ["-0.02", "-0.01", "0.00", "0.01"]);
        assert_eq!(labels(Scale::Log, &[0.0004, 3.0]), ["0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(Scale::Log, &[0.8, 30.0]), ["1", "2", "5", "10", "20"]);
        assert_eq!(labels(Scale::Log, &[1e-9, 1e3]), ["1e-9", "1e-6", "0.001", "1", "1000"]);
        assert_eq!(labels(Scale::Names(vec!["a".into(), "b".into()]), &[]), ["a", "b"]);
    }

    #[test]
    fn places_and_ends() {
        let ruler = Ruler::new(&Scale::Log, [0.01, 1.0, 0.0, f64::NAN].into_iter());
        assert_eq!(ruler.place(0.0), None);
        assert_eq!(ruler.place(f64::NAN), None);
        assert!((ruler.place(0.1).unwrap() - 0.5).abs() < 1e-12);
        let (low, high) = ruler.ends();
        assert!(low < 0.01 && high > 1.0);
        // One number, or none, still has a range.
        for numbers in [&[3.0][..], &[0.0], &[]] {
            let (low, high) = Ruler::new(&Scale::Linear, numbers.iter().copied()).ends();
            assert!(low < high, "{numbers:?}");
        }
    }
}
