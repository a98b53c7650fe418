//! CRC-32C of an image by stretches, computed while its parts are written in whatever order.
//!
//! Without the inversions at its start and end a CRC is linear: the sum of a stretch is the exclusive or of the sums of
//! its parts, each as if the rest were zeros, and zeros that follow a part multiply its sum by a power of x (modulo the
//! polynomial). So nothing is read twice, parts that are never written cost nothing, and a number written over another
//! changes a sum by what differs.

/// Bytes that one checksum covers; the last one covers what is left.
pub(crate) const STRETCH: u64 = 1024 * 1024;

/// Castagnoli's polynomial without its highest power, lowest bit first (RFC 3720, appendix B.4).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The polynomials 1 and x in this notation.
const ONE: u32 = 1 << 31;
const X: u32 = 1 << 30;

/// x to the powers 8, 16, 32, …: what 1, 2, 4, … zero bytes multiply by.
const FORWARD: [u32; 32] = powers(power_of_x(8));

/// The same for zero bytes taken away. As the polynomial's lowest coefficient is 1, x divides by a shift.
const BACKWARD: [u32; 32] = powers(eighth((POLYNOMIAL << 1) | 1));

/// Checksums of an image in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checksums {
    /// Sums without inversions, as if each stretch were filled up with zeros.
    sums: Vec<u32>,
}

impl Checksums {
    /// Adds bytes at a place where there were none, or what differs from those that were there.
    pub(crate) fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = offset % STRETCH;
            let count = usize::try_from(STRETCH - within).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (here, rest) = bytes.split_at(count);
            let index = usize::try_from(offset / STRETCH).unwrap_or(usize::MAX);
            if self.sums.len() <= index {
                self.sums.resize(index + 1, 0);
            }
            self.sums[index] ^= shifted(plain(here), STRETCH - within - count as u64, &FORWARD);
            offset += count as u64;
            bytes = rest;
        }
    }

    /// The CRC-32C of each stretch of an image of `length` bytes.
    pub(crate) fn finish(mut self, length: u64) -> Vec<u32> {
        self.sums.resize(usize::try_from(length.div_ceil(STRETCH)).unwrap_or(usize::MAX), 0);
        let whole = inversions(STRETCH);
        let mut sums: Vec<u32> = self.sums.iter().map(|sum| sum ^ whole).collect();
        let left = length % STRETCH;
        if let (Some(last), Some(sum)) = (sums.last_mut(), self.sums.last())
            && left > 0
        {
            *last = shifted(*sum, STRETCH - left, &BACKWARD) ^ inversions(left);
        }
        sums
    }
}

/// The CRC without inversions.
fn plain(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(u32::MAX, bytes)
}

/// What the two inversions add to the sum of so many bytes.
fn inversions(length: u64) -> u32 {
    !shifted(u32::MAX, length, &FORWARD)
}

/// A sum after so many zero bytes more, or less.
fn shifted(mut sum: u32, mut bytes: u64, powers: &[u32; 32]) -> u32 {
    let mut bit = 0;
    while bytes != 0 && sum != 0 {
        if bytes & 1 != 0 {
            sum = product(sum, powers[bit]);
        }
        bytes >>= 1;
        bit += 1;
    }
    sum
}

const fn powers(first: u32) -> [u32; 32] {
    let mut powers = [first; 32];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = product(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
}

const fn power_of_x(power: u32) -> u32 {
    let (mut result, mut at) = (ONE, 0);
    while at < power {
        result = product(result, X);
        at += 1;
    }
    result
}

/// The eighth power.
const fn eighth(of: u32) -> u32 {
    let square = product(of, of);
    let fourth = product(square, square);
    product(fourth, fourth)
}

/// The product of two polynomials modulo Castagnoli's.
const fn product(mut left: u32, right: u32) -> u32 {
    let (mut sum, mut bit) = (0, ONE);
    while bit != 0 {
        if right & bit != 0 {
            sum ^= left;
        }
        left = if left & 1 != 0 { (left >> 1) ^ POLYNOMIAL } else { left >> 1 };
        bit >>= 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_any_order_with_gaps_and_changes_sum_up() {
        let length = 2 * STRETCH + 12_288;
        let mut image = vec![0u8; usize::try_from(length).unwrap()];
        let mut sums = Checksums::default();
        let mut write = |sums: &mut Checksums, offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
            sums.add(offset as u64, bytes);
        };
        let noise: Vec<u8> =
            (0..1_500_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        write(&mut sums, 600_000, &noise);
        write(&mut sums, 0, b"first");
        write(&mut sums, 2_100_000, &noise[..5000]);
        write(&mut sums, 300_000, &noise[7..8]);
        let changed = [1u8, 2, 3, 4];
        let delta: Vec<u8> =
            image[700_001..700_005].iter().zip(changed).map(|(old, new)| old ^ new).collect();
        image[700_001..700_005].copy_from_slice(&changed);
        sums.add(700_001, &delta);
        let expected: Vec<u32> = image.chunks(1 << 20).map(crc32c::crc32c).collect();
        assert_eq!(sums.finish(length), expected);
    }

    #[test]
    fn what_was_never_written_is_zeros() {
        assert_eq!(Checksums::default().finish(0), [0; 0]);
        assert_eq!(Checksums::default().finish(5), [crc32c::crc32c(&[0; 5])]);
        let whole = crc32c::crc32c(&vec![0; 1 << 20]);
        assert_eq!(Checksums::default().finish(STRETCH), [whole]);
    }
}
