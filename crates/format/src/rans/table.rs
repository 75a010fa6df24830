//! How often each code occurs, in 14 bits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::RansError;

/// Bits of a frequency: rounding it costs `int8` in groups of 128 of Gaussian weights 0.00004 bits a code.
const BITS: u32 = 14;
/// What the frequencies of a table add up to.
pub(super) const TOTAL: u32 = 1 << BITS;
/// The most codes that a table is made for, those of 8 bits.
pub(super) const CODES: usize = 256;
/// Bytes before the frequencies: the lowest code and the highest.
const HEAD: usize = 2;

/// Frequencies of the codes of a tensor, which add up to `2^14`; every code that occurs has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The lowest code that has a frequency.
    first: u8,
    /// Of the codes from `first`; the first and the last are not 0.
    frequencies: Vec<u16>,
}

/// Where the numbers of a code begin, and how many they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    pub start: u32,
    pub frequency: u32,
}

/// Bits saved in all by one more unit of frequency for a code.
struct Gain {
    bits: f64,
    code: usize,
}

impl PartialEq for Gain {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Gain {}

impl PartialOrd for Gain {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Gain {
    fn cmp(&self, other: &Self) -> Ordering {
        // The lower code first, so that the table does not depend on the heap.
        self.bits.total_cmp(&other.bits).then(other.code.cmp(&self.code))
    }
}

impl Table {
    /// The table with the shortest strings for codes that occur so often: `counts[code]`, of at most 256 codes.
    ///
    /// ```text
    /// minimize  Σ counts[c] · log2(2^14 / f[c])   over   Σ f[c] = 2^14,  f[c] ≥ 1 where counts[c] > 0
    /// ```
    ///
    /// Every code that occurs has 1 at first, and each further unit goes where it saves most; since the logarithm is concave,
    /// no other division is better.
    ///
    /// # Panics
    /// If nothing occurs, or there are more than 256 codes.
    pub fn fit(counts: &[u64]) -> Self {
        assert!(counts.len() <= CODES, "a table has at most {CODES} codes, not {}", counts.len());
        let mut frequencies = vec![0_u16; counts.len()];
        let gain = |code: usize, frequency: u16| {
            let frequency = f64::from(frequency);
            Gain { bits: counts[code] as f64 * ((frequency + 1.0) / frequency).log2(), code }
        };
        let mut heap = BinaryHeap::new();
        for (code, _) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            frequencies[code] = 1;
            heap.push(gain(code, 1));
        }
        let (Some(first), Some(last)) =
            (counts.iter().position(|count| *count > 0), counts.iter().rposition(|count| *count > 0))
        else {
            panic!("a table of no codes was asked for");
        };
        for _ in heap.len()..TOTAL as usize {
            // Each code that is taken out is put back.
            let Some(Gain { code, .. }) = heap.pop() else { break };
            frequencies[code] += 1;
            heap.push(gain(code, frequencies[code]));
        }
        // `first` is a code of 8 bits.
        Self { first: first as u8, frequencies: frequencies[first..=last].to_vec() }
    }

    /// Bits a code takes on average, without states, index and table: the cross entropy of the table.
    ///
    /// ```text
    /// Σ counts[c] · log2(2^14 / f[c])  /  Σ counts[c]
    /// ```
    ///
    /// Infinite where a code occurs that the table has not, not a number where none occurs.
    pub fn rate(&self, counts: &[u64]) -> f64 {
        let shares = self.shares();
        let share = |code: usize| shares.get(code).map_or(0, |share| share.frequency);
        let bits = |(code, &count): (usize, &u64)| count as f64 * (f64::from(TOTAL) / f64::from(share(code))).log2();
        let total: u64 = counts.iter().sum();
        counts.iter().enumerate().filter(|(_, count)| **count > 0).map(bits).sum::<f64>() / total as f64
    }

    /// Bytes of the table in a stream.
    pub(super) fn byte_len(&self) -> usize {
        HEAD + 2 * self.frequencies.len()
    }

    pub(super) fn write(&self, stream: &mut Vec<u8>) {
        // Codes have at most 8 bits, so the highest is a byte too.
        stream.extend([self.first, self.first + (self.frequencies.len() - 1) as u8]);
        stream.extend(self.frequencies.iter().flat_map(|frequency| frequency.to_le_bytes()));
    }

    /// The table at the beginning of `stream`, for codes of `bits` bits.
    pub(super) fn read(stream: &[u8], bits: u32) -> Result<Self, RansError> {
        let short = |expected| RansError::Truncated { expected, found: stream.len() };
        let &[first, last, ..] = stream else { return Err(short(HEAD)) };
        if first > last || u32::from(last) >> bits != 0 {
            return Err(RansError::Codes { first, last, bits });
        }
        let count = usize::from(last - first) + 1;
        let bytes = stream.get(HEAD..HEAD + 2 * count).ok_or_else(|| short(HEAD + 2 * count))?;
        let frequencies: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let sum = frequencies.iter().map(|&frequency| u32::from(frequency)).sum();
        if sum != TOTAL {
            return Err(RansError::Frequencies { sum });
        }
        match frequencies[0] == 0 || frequencies[count - 1] == 0 {
            true => Err(RansError::Codes { first, last, bits }),
            false => Ok(Self { first, frequencies }),
        }
    }

    /// The share of each code, from code 0.
    pub(super) fn shares(&self) -> [Share; CODES] {
        let mut shares = [Share::default(); CODES];
        let mut start = 0;
        for (share, &frequency) in shares[usize::from(self.first)..].iter_mut().zip(&self.frequencies) {
            *share = Share { start, frequency: u32::from(frequency) };
            start += share.frequency;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        let table = Table::fit(&[0, 4, 2, 1, 0, 1, 0]);
        assert_eq!((table.first, &table.frequencies[..]), (1, &[8192, 4096, 2048, 0, 2048][..]));
        assert_eq!(table.rate(&[0, 4, 2, 1, 0, 1, 0]), 1.75);
        assert_eq!(table.rate(&[1]), f64::INFINITY);
        assert_eq!(Table::fit(&[0, 9]).rate(&[0, 9]), 0.0);
    }

    #[test]
    fn what_occurs_once_in_a_million_has_a_frequency() {
        let table = Table::fit(&[1_000_000, 1]);
        assert_eq!(table.frequencies, [16383, 1]);
    }

    proptest! {
        #[test]
        fn no_unit_is_better_elsewhere(counts in prop::collection::vec(0_u64..5000, 1..40)) {
            prop_assume!(counts.iter().any(|count| *count > 0));
            let table = Table::fit(&counts);
            let rate = table.rate(&counts);
            for from in 0..table.frequencies.len() {
                for to in 0..table.frequencies.len() {
                    let mut moved = table.clone();
                    // Zero belongs to what does not occur, and one is the least of what does.
                    if from != to && moved.frequencies[from] > 1 && moved.frequencies[to] > 0 {
                        moved.frequencies[from] -= 1;
                        moved.frequencies[to] += 1;
                        prop_assert!(moved.rate(&counts) >= rate - 1e-12);
                    }
                }
            }
        }

        #[test]
        fn a_table_is_read_as_it_was_written(counts in prop::collection::vec(0_u64..9, 1..=256)) {
            prop_assume!(counts.iter().any(|count| *count > 0));
            let (table, mut stream) = (Table::fit(&counts), Vec::new());
            table.write(&mut stream);
            prop_assert_eq!(stream.len(), table.byte_len());
            prop_assert_eq!(Table::read(&stream, 8), Ok(table));
        }
    }
}
