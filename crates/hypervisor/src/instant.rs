//! Machines that run before their disks are there: overlays over read-only NBD exports.

use crate::model::RestoreMachineRequest;
use std::any::Any;
use std::path::PathBuf;
use uuid::Uuid;

/// A machine whose disks are overlays over exports.
#[derive(Debug, Clone)]
pub struct OverlayMachine {
    /// Its disks are the overlays: qcow2, each backed by the export of its target's name.
    pub machine: RestoreMachineRequest,
    /// The machine's, as it is to be.
    pub uuid: Uuid,
    /// The Unix socket with the exports.
    pub socket: PathBuf,
    /// How long its requests wait for exports that went away, in seconds, before they fail; then the machine is paused.
    pub reconnect_seconds: u32,
}

/// How far a running machine's disk is from standing on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// Its data is being moved. Both in bytes of the disk.
    Moving {
        /// So much is done,
        done_bytes: u64,
        /// of so much.
        total_bytes: u64,
    },
    /// It needs its export, and nothing is being moved.
    Waiting,
    /// Everything is in its own image.
    Done,
}

/// A machine that nothing will remain of: it ends when this is dropped, or with this process, however that ends.
pub struct ThrowAway {
    /// The machine's name.
    pub name: String,
    /// A sentence each: what is different from the saved machine.
    pub notes: Vec<String>,
    /// Ends it.
    pub(crate) _guard: Box<dyn Any + Send>,
}

impl ThrowAway {
    /// One that ends when `guard` is dropped.
    pub fn new(name: String, guard: Box<dyn Any + Send>) -> Self {
        Self { name, notes: Vec::new(), _guard: guard }
    }
}

/// What a machine's screen shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Three bytes a pixel, red first, from the top left.
    pub rgb: Vec<u8>,
}

impl Screenshot {
    /// Pixels for which `differs`, in millionths of all.
    fn share(&self, differs: impl Fn(&[u8], usize) -> bool) -> u64 {
        let all = (self.rgb.len() / 3).max(1) as u64;
        let count = self.rgb.chunks_exact(3).enumerate().filter(|(at, pixel)| differs(pixel, *at)).count();
        count as u64 * 1_000_000 / all
    }

    /// Whether it is of one colour, but for a cursor.
    pub fn is_blank(&self) -> bool {
        let first = self.rgb.get(..3).unwrap_or_default();
        self.share(|pixel, _| pixel != first) < BLANK_MILLIONTHS
    }

    /// Whether it shows what another does, but for a cursor or a clock.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height)
            && self.share(|pixel, at| other.rgb.get(at * 3..at * 3 + 3) != Some(pixel)) < ALIKE_MILLIONTHS
    }

    /// As a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
        writer.write_image_data(&self.rgb).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())?;
        Ok(out)
    }
}

/// A text cursor is some twenty pixels of three hundred thousand, a line of text some hundreds.
const BLANK_MILLIONTHS: u64 = 500;
const ALIKE_MILLIONTHS: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(width: u32, height: u32, lit: usize) -> Screenshot {
        let mut rgb = vec![0; (width * height * 3) as usize];
        rgb[..lit * 3].fill(200);
        rgb.rotate_right(3000);
        Screenshot { width, height, rgb }
    }

    #[test]
    fn a_cursor_is_nothing_and_a_line_of_text_is_something() {
        assert!(screen(720, 400, 0).is_blank());
        assert!(screen(720, 400, 18).is_blank());
        assert!(!screen(720, 400, 500).is_blank());
        assert!(screen(720, 400, 500).is_like(&screen(720, 400, 518)));
        assert!(!screen(720, 400, 500).is_like(&screen(720, 400, 5000)));
        assert!(!screen(720, 400, 0).is_like(&screen(640, 480, 0)));
    }

    #[test]
    fn a_screen_becomes_a_picture_and_back() {
        let screen = screen(64, 48, 100);
        let bytes = screen.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut back = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut back).unwrap();
        assert_eq!((info.width, info.height), (64, 48));
        assert_eq!(back, screen.rgb);
    }
}
