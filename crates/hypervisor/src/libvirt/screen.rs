//! A picture of a machine's screen, by QEMU's `screendump`. It is a guest's: its size is bounded before it is read.

use super::dom::Dom;
use crate::error::{Error, Result};
use crate::instant::Screenshot;
use crate::limits::{SCREEN_BYTES_MAX, SCREEN_SIDE_MAX};
use crate::text::machine;
use std::io::Cursor;

pub fn take(dom: &Dom) -> Result<Screenshot> {
    let what = format!("the screen of {}", machine(&dom.name()));
    let bytes = dom.screenshot(SCREEN_BYTES_MAX).map_err(|e| e.about("taking a picture of", &what))?;
    parse(&bytes).map_err(|why| Error::failed("understanding a picture of", what, why))
}

/// PPM, or PNG where QEMU has been built to write it.
fn parse(bytes: &[u8]) -> Result<Screenshot, String> {
    let found = if bytes.starts_with(b"\x89PNG") { from_png(bytes) } else { from_ppm(bytes) }?;
    let pixels = u64::from(found.width) * u64::from(found.height);
    match found.rgb.len() as u64 == pixels * 3 && pixels > 0 {
        true => Ok(found),
        false => Err("its size is not what it says".into()),
    }
}

fn check_size(width: u32, height: u32) -> Result<(), String> {
    match (1..=SCREEN_SIDE_MAX).contains(&width) && (1..=SCREEN_SIDE_MAX).contains(&height) {
        true => Ok(()),
        false => Err(format!("{width} by {height} pixels are not accepted")),
    }
}

fn from_ppm(bytes: &[u8]) -> Result<Screenshot, String> {
    let mut at = 0;
    let mut word = || -> Result<&[u8], String> {
        loop {
            match bytes.get(at) {
                Some(b'#') => {
                    let rest = &bytes[at..];
                    at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                Some(b) if b.is_ascii_whitespace() => at += 1,
                Some(_) => break,
                None => return Err("it ends within its head".into()),
            }
        }
        let start = at;
        while bytes.get(at).is_some_and(|b| !b.is_ascii_whitespace()) {
            at += 1;
        }
        Ok(&bytes[start..at])
    };
    if word()? != b"P6" {
        return Err("it is neither a PPM nor a PNG picture".into());
    }
    let mut number = || -> Result<u32, String> {
        let text = word()?;
        std::str::from_utf8(text)
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| "its head is not understood".to_owned())
    };
    let (width, height, most) = (number()?, number()?, number()?);
    check_size(width, height)?;
    if most != 255 {
        return Err(format!("colours up to {most} are not understood"));
    }
    // One blank, then the pixels.
    let rgb = bytes.get(at + 1..).unwrap_or_default().to_vec();
    Ok(Screenshot { width, height, rgb })
}

fn from_png(bytes: &[u8]) -> Result<Screenshot, String> {
    let said = |e: png::DecodingError| e.to_string();
    let limits = png::Limits { bytes: SCREEN_BYTES_MAX };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(said)?;
    check_size(reader.info().width, reader.info().height)?;
    let size = reader.output_buffer_size().filter(|s| *s <= SCREEN_BYTES_MAX).ok_or("it is too large")?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(said)?;
    pixels.truncate(frame.buffer_size());
    let rgb = match frame.color_type {
        png::ColorType::Rgb => pixels,
        png::ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        png::ColorType::Grayscale => pixels.into_iter().flat_map(|p| [p, p, p]).collect(),
        png::ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        png::ColorType::Indexed => return Err("its colours are not understood".into()),
    };
    Ok(Screenshot { width: frame.width, height: frame.height, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read() {
        let mut ppm = b"P6\n# of a test\n4 2\n255\n".to_vec();
        ppm.extend((0..24).collect::<Vec<u8>>());
        let screen = parse(&ppm).unwrap();
        assert_eq!((screen.width, screen.height, screen.rgb[23]), (4, 2, 23));
        assert_eq!(parse(&screen.png().unwrap()).unwrap(), screen);
    }

    #[test]
    fn hostile_pictures_are_refused() {
        let short = b"P6\n4 2\n255\n123".to_vec();
        for bad in [
            b"".as_slice(),
            b"P6",
            b"P6 4",
            b"P5 4 2 255\n",
            b"P6 99999999 99999999 255\n",
            b"P6 0 0 255\n",
            b"P6 4 2 65535\n",
            b"P6 -4 2 255\n",
            b"\x89PNG\r\n\x1a\nrubbish",
            &short,
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
