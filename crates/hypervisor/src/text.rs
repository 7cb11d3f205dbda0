//! Text from outside, made fit for messages, and XML built without ever pasting text into it.

use crate::limits::MESSAGE_BYTES_MAX;
use std::fmt::Write;

/// Cuts text from outside to a length fit for a message, without control characters.
pub fn shorten(text: &str) -> String {
    let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= MESSAGE_BYTES_MAX {
        return clean;
    }
    let mut end = MESSAGE_BYTES_MAX;
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &clean[..end])
}

/// How a machine is called in messages.
pub fn machine(name: &str) -> String {
    format!("machine `{}`", shorten(name))
}

/// An XML document under construction. Names of elements and attributes come from this program or
/// from a parsed document; everything else is escaped.
#[derive(Default)]
pub struct Xml {
    out: String,
    open: Vec<String>,
    tag_open: bool,
}

impl Xml {
    pub fn new() -> Self {
        Self::default()
    }

    fn close_tag(&mut self) {
        if self.tag_open {
            self.out.push('>');
            self.tag_open = false;
        }
    }

    pub fn start(&mut self, name: &str) -> &mut Self {
        self.close_tag();
        self.out.push('<');
        self.out.push_str(name);
        self.open.push(name.to_owned());
        self.tag_open = true;
        self
    }

    /// Adds an attribute to the element just started.
    pub fn attribute(&mut self, name: &str, value: &str) -> &mut Self {
        debug_assert!(self.tag_open, "attributes come before content");
        let _ = write!(self.out, " {name}=\"");
        self.escape(value);
        self.out.push('"');
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.close_tag();
        self.escape(text);
        self
    }

    pub fn end(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            if self.tag_open {
                self.out.push_str("/>");
                self.tag_open = false;
            } else {
                let _ = write!(self.out, "</{name}>");
            }
        }
        self
    }

    /// `<name>text</name>`
    pub fn element(&mut self, name: &str, text: &str) -> &mut Self {
        self.start(name).text(text).end()
    }

    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.out
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&apos;"),
                '\n' | '\t' | '\r' => {
                    let _ = write!(self.out, "&#{};", c as u32);
                }
                // Not allowed in XML 1.0 in any form.
                c if (c as u32) < 0x20 || c == '\u{fffe}' || c == '\u{ffff}' => self.out.push('\u{fffd}'),
                c => self.out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let mut xml = Xml::new();
        xml.start("a").attribute("b", "'/><x y=\"\n").element("c", "</a>&amp;\u{1}").start("d").end();
        let text = xml.finish();
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let root = parsed.root_element();
        assert_eq!(root.attribute("b"), Some("'/><x y=\"\n"));
        assert_eq!(root.children().count(), 2);
        assert_eq!(root.first_child().unwrap().text(), Some("</a>&amp;\u{fffd}"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shorten(&"ü\n".repeat(MESSAGE_BYTES_MAX));
        assert!(cut.len() <= MESSAGE_BYTES_MAX + 3 && cut.ends_with('…') && !cut.contains('\n'));
    }
}
