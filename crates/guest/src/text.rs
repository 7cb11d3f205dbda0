//! Text from programs and files, made fit for messages.

/// Text fit for messages: its end, without control characters other than line ends.
pub fn plain(text: &str, bytes_max: usize) -> String {
    let clean: String =
        text.trim().chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect();
    let mut start = clean.len().saturating_sub(bytes_max);
    while !clean.is_char_boundary(start) {
        start += 1;
    }
    clean[start..].to_owned()
}
