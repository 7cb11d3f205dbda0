//! Rust source as a list of words and signs, without comments and literals.

/// A word, `::`, or another sign, and the line it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: u32,
}

impl Token<'_> {
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.line += taken.matches('\n').count() as u32;
        self.at += bytes;
        taken
    }

    /// Up to and with `end`, or to the end of the file.
    fn take_past(&mut self, end: &str) {
        let bytes = self.rest().find(end).map_or(self.rest().len(), |n| n + end.len());
        self.take(bytes);
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while !self.rest().is_empty() {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.take(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.take(rest.chars().next().map_or(0, char::len_utf8));
            }
        }
    }

    /// After the opening quote.
    fn text(&mut self) {
        while let Some(at) = self.rest().find(['"', '\\']) {
            let is_escape = self.rest()[at..].starts_with('\\');
            self.take(at + 1);
            if !is_escape {
                return;
            }
            self.take(self.rest().chars().next().map_or(0, char::len_utf8));
        }
        self.at = self.source.len();
    }

    /// At a quote: skips a character, or the sign of a lifetime.
    fn quote(&mut self) {
        let mut next = self.rest()[1..].chars();
        match (next.next(), next.next()) {
            (Some('\\'), Some(escaped)) => {
                self.take(2 + escaped.len_utf8());
                self.take_past("'");
            }
            (Some(c), Some('\'')) => {
                self.take(2 + c.len_utf8());
            }
            _ => {
                self.take(1);
                let bytes = word_length(self.rest());
                self.take(bytes);
            }
        }
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// What a text literal with a prefix begins with here: its length up to the quote, and the number of `#` if it is raw.
fn prefixed_text(rest: &str) -> Option<(usize, Option<usize>)> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let is_raw = prefix.ends_with('r');
    (after[hashes..].starts_with('"') && (is_raw || hashes == 0))
        .then_some((prefix.len() + hashes, is_raw.then_some(hashes)))
}

pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut reader = Reader { source, at: 0, line: 1 };
    let mut found = Vec::new();
    while let Some(first) = reader.rest().chars().next() {
        let rest = reader.rest();
        let line = reader.line;
        if rest.starts_with("//") {
            reader.take_past("\n");
        } else if rest.starts_with("/*") {
            reader.block_comment();
        } else if let Some((prefix, hashes)) = prefixed_text(rest) {
            reader.take(prefix + 1);
            match hashes {
                Some(hashes) => reader.take_past(&format!("\"{}", "#".repeat(hashes))),
                None => reader.text(),
            }
        } else if first == '"' {
            reader.take(1);
            reader.text();
        } else if rest.starts_with("b'") {
            reader.take(1);
            reader.quote();
        } else if first == '\'' {
            reader.quote();
        } else if rest.starts_with("r#") && word_length(&rest[2..]) > 0 {
            reader.take(2);
        } else if first.is_alphanumeric() || first == '_' {
            let text = reader.take(word_length(rest));
            // Numbers are of no use here.
            if !first.is_numeric() {
                found.push(Token { text, line });
            }
        } else if rest.starts_with("::") {
            found.push(Token { text: reader.take(2), line });
        } else {
            let text = reader.take(first.len_utf8());
            if !first.is_whitespace() {
                found.push(Token { text, line });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_left_out() {
        let source = r####"
            // crate::a
            /* crate::b /* nested */ crate::c */
            let x: &'static str = "crate::d \" crate::e"; let c = '"'; let d = '\''; let e = b'"';
            let raw = r#"crate::f " crate::g"#; let r#type = 0x1f_u8 as crate::h::T;
        "####;
        let texts: Vec<_> = tokens(source).into_iter().map(|t| t.text).collect();
        assert_eq!(
            texts.join(" "),
            "let x : & str = ; let c = ; let d = ; let e = ; let raw = ; let type = as crate :: h :: T ;"
        );
        assert_eq!(tokens(source).last().unwrap().line, 5);
    }
}
