//! Figures and tables for people. Exact figures are in the JSON.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::Duration;
use unicode_width::UnicodeWidthStr as _;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// `1.25 GiB`: three digits, powers of 1024.
pub fn size(bytes: u64) -> String {
    scaled(bytes as f64)
}

/// `180 MiB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", scaled(bytes_per_second))
}

fn scaled(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = 0;
    // 1023.5 and more would be shown with four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `0.12 s`, `6 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0 s".into(),
        0 => format!("{:.2} s", time.as_secs_f64().max(0.01)),
        1..10 if time.subsec_millis() >= 10 => format!("{:.1} s", time.as_secs_f64()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Local time with its distance from UTC. What is shown can be typed as `ITEM@TIME` (with a `T` for the space).
pub fn time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// A number with its noun: `1 point`, `3 points`.
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// Rows under headings, columns aligned; those whose heading begins with `>` to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<&str> = headings.iter().map(|h| h.trim_start_matches('>')).collect();
    let mut widths: Vec<usize> = titles.iter().map(|t| t.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, cell) in cells.enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.width()));
            if column > 0 {
                text.push_str("  ");
            }
            if headings[column].starts_with('>') {
                text.push_str(&padding);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&padding);
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut titles.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str).take(headings.len()));
    }
    out
}

/// Names with their values below one another, values aligned, further lines of one too.
pub fn list(entries: &[(&str, String)]) -> String {
    let width = entries.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    entries
        .iter()
        .map(|(name, value)| {
            let padding = " ".repeat(width - name.width());
            let value = value.trim_end().replace('\n', &format!("\n{}", " ".repeat(width + 2)));
            format!("{name}:{padding} {value}\n")
        })
        .collect()
}

/// A word as a shell reads it back, for commands that are shown to be copied.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_words_back() {
        for (word, shown) in [
            ("web-01.a", "web-01.a"),
            ("a b", "'a b'"),
            ("a;rm -rf x", "'a;rm -rf x'"),
            ("it's", r"'it'\''s'"),
            ("$(x)`y`", "'$(x)`y`'"),
            ("", "''"),
            ("Büro", "'Büro'"),
        ] {
            assert_eq!(shell_word(word), shown);
            let read = std::process::Command::new("sh").args(["-c", &format!("printf %s {shown}")]).output();
            assert_eq!(read.unwrap().stdout, word.as_bytes());
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1.00 KiB"),
            (65536, "64.0 KiB"),
            (1 << 30, "1.00 GiB"),
            (1023 << 20, "1.00 GiB"),
            (150 << 40, "150 TiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn durations_fit_their_length() {
        for (millis, shown) in [
            (0, "0 s"),
            (3, "0.01 s"),
            (120, "0.12 s"),
            (1500, "1.5 s"),
            (59_999, "59 s"),
            (200_000, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn tables_are_aligned_by_what_is_seen() {
        let rows = vec![vec!["Büro".into(), "1".into()], vec!["会社".into(), "100".into()]];
        assert_eq!(table(&["ITEM", ">SIZE"], &rows), "ITEM  SIZE\nBüro     1\n会社   100\n");
    }
}
