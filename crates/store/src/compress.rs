//! Deciding what to compress, and compressing it. Measured on full backups: `docs/performance.md`.

use crate::frame::Codec;
use zstd_safe::{CCtx, CParameter};

/// A frame whose compressed form is not at least this much smaller is stored as it is.
const GAIN_MIN_PER_CENT: usize = 3;
/// Bytes looked at to judge a block.
const PROBE_BYTES: usize = 4096;
/// Above this entropy, in 1/256 bit a byte, a sample counts as random.
const RANDOM_ENTROPY: u32 = 2000;

/// Whether a block looks like something that compression will not make smaller (already compressed,
/// encrypted or random). Looks at samples only; being wrong costs time or space, never data.
pub fn looks_random(block: &[u8]) -> bool {
    let mut counts = [0u16; 256];
    let pieces = 8.min(block.len() / 512).max(1);
    let piece = (PROBE_BYTES / pieces).min(block.len() / pieces);
    let stride = block.len() / pieces;
    let mut total = 0u32;
    for i in 0..pieces {
        for &byte in &block[i * stride..i * stride + piece] {
            counts[byte as usize] += 1;
        }
        total += piece as u32;
    }
    // Entropy in fixed point, from a table of n * log2(n).
    let sum: f32 = counts.iter().filter(|&&n| n > 0).map(|&n| f32::from(n) * f32::from(n).log2()).sum();
    let entropy = (total as f32).log2() - sum / total as f32;
    (entropy * 256.0) as u32 > RANDOM_ENTROPY
}

/// Whether all bytes are zero.
pub fn is_zero(block: &[u8]) -> bool {
    // Chunks keep the compiler's vector loop going and still leave early.
    block.chunks(512).all(|chunk| chunk.iter().fold(0u8, |all, &byte| all | byte) == 0)
}

/// A reusable compressor.
pub struct Compressor {
    context: CCtx<'static>,
    buffer: Vec<u8>,
}

/// How hard to compress: zstd levels, negative ones being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub i32);

impl Default for Level {
    fn default() -> Self {
        Self(1)
    }
}

impl Compressor {
    pub fn new(level: Level) -> Self {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level.0),
            // The frame around it carries length and hash already.
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
        ] {
            // These parameters exist in every zstd that is linked here.
            if let Err(code) = context.set_parameter(parameter) {
                tracing::warn!("zstd refused a parameter: {}", zstd_safe::get_error_name(code));
            }
        }
        Self { context, buffer: Vec::new() }
    }

    /// Compresses `plain`, or leaves it alone if that gains nothing.
    pub fn compress<'a>(&'a mut self, plain: &'a [u8]) -> (Codec, &'a [u8]) {
        self.buffer.clear();
        self.buffer.reserve(zstd_safe::compress_bound(plain.len()));
        match self.context.compress2(&mut self.buffer, plain) {
            Ok(len) if len * 100 <= plain.len() * (100 - GAIN_MIN_PER_CENT) => (Codec::Zstd, &self.buffer),
            Ok(_) => (Codec::None, plain),
            Err(code) => {
                tracing::warn!("zstd failed, storing as is: {}", zstd_safe::get_error_name(code));
                (Codec::None, plain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_random_from_text_and_zero() {
        let mut random = vec![0; 65536];
        crate::crypto::random(&mut random).unwrap();
        assert!(looks_random(&random));
        let text: Vec<u8> =
            b"the quick brown fox jumps over the lazy dog ".iter().copied().cycle().take(65536).collect();
        assert!(!looks_random(&text));
        assert!(is_zero(&[0; 4096]) && !is_zero(&random));
        let mut nearly = vec![0; 4096];
        nearly[4095] = 1;
        assert!(!is_zero(&nearly));
    }

    #[test]
    fn keeps_what_does_not_shrink() {
        let mut compressor = Compressor::new(Level::default());
        let mut random = vec![0; 65536];
        crate::crypto::random(&mut random).unwrap();
        assert_eq!(compressor.compress(&random).0, Codec::None);
        let (codec, bytes) = compressor.compress(&[7; 65536]);
        assert!(codec == Codec::Zstd && bytes.len() < 200);
    }
}
