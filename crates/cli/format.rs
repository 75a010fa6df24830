//! Numbers as people read them.

/// A size in decimal units: `1.25 GB`, `3.1 MB`, `640 kB`, `12 B`.
pub fn bytes(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let value = bytes as f64 / unit as f64;
            let digits = if value < 10.0 {
                2
            } else if value < 100.0 {
                1
            } else {
                0
            };
            format!("{value:.digits$} {name}")
        }
        None => format!("{bytes} B"),
    }
}

/// Four significant digits: `44.48`, `0.01234`, `1.235e-7`.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    match magnitude {
        -4..=3 => format!("{value:.*}", (3 - magnitude) as usize),
        4..=9 => format!("{value:.0}"),
        _ => format!("{value:.3e}"),
    }
}

/// A fraction as a percentage: `97.3 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// A relative change with its sign: `+1.23 %`.
pub fn change(fraction: f64) -> String {
    format!("{:+.2} %", 100.0 * fraction)
}

/// A fraction as a bar of at most `width` letters, in eighths of a letter.
pub fn bar(fraction: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (fraction.clamp(0.0, 1.0) * 8.0 * width as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// A duration in its natural unit: `0.8 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1 block`, `2 blocks`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (11_547_128, "11.5 MB"),
            (999_400, "999 kB"),
            (2_200_000_000, "2.20 GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn numbers() {
        for (value, text) in [
            (44.4812, "44.48"),
            (3.476, "3.476"),
            (0.0123456, "0.01235"),
            (0.0, "0"),
            (1234.56, "1235"),
            (123_456.7, "123457"),
            (1.2346e-7, "1.235e-7"),
            (-0.5, "-0.5000"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn bars() {
        assert_eq!([0.0, 0.5, 0.28125, 1.0, 7.0].map(|share| bar(share, 4)), ["", "██", "█▏", "████", "████"]);
    }

    #[test]
    fn durations_and_changes() {
        let texts = [0.84, 12.3, 185.0, 7_800.0].map(seconds);
        assert_eq!(texts, ["0.8 s", "12 s", "3 min 5 s", "2 h 10 min"]);
        assert_eq!(
            (change(0.0123), change(-0.5), percent(0.973)),
            ("+1.23 %".into(), "-50.00 %".into(), "97.3 %".into())
        );
        assert_eq!((count(1, "block"), count(0, "block")), ("1 block".into(), "0 blocks".into()));
    }
}
