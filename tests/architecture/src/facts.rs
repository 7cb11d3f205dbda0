//! What one file of Rust says about others: its `use` lines, its paths, the modules and names it defines. Tests are left out.

use crate::tokens::{Token, tokens};
use std::collections::BTreeSet;

/// A module's place in its crate; empty at the crate's root.
pub type Module = Vec<String>;

/// One name that a `use` line brings in.
#[derive(Debug, Clone)]
pub struct Use {
    /// The module inside the file it stands in; mostly empty.
    pub within: Module,
    pub path: Vec<String>,
    /// The name it has here; `None`: all names (`*`).
    pub name: Option<String>,
    /// `pub`, in any form.
    pub is_passed_on: bool,
    pub line: u32,
}

/// A path in the code, `crate::names::key`.
#[derive(Debug, Clone)]
pub struct Mention {
    pub within: Module,
    pub path: Vec<String>,
    pub line: u32,
}

#[derive(Debug, Default)]
pub struct Facts {
    pub uses: Vec<Use>,
    pub mentions: Vec<Mention>,
    /// Names of items, with the module inside the file.
    pub defines: BTreeSet<(Module, String)>,
    /// Modules that stand inside the file.
    pub inner: BTreeSet<Module>,
    /// Modules with files of their own that are compiled for tests only.
    pub test_modules: BTreeSet<String>,
    /// Every word of the code outside of `use` lines, and the first line it stands on.
    pub words: std::collections::BTreeMap<String, u32>,
}

/// What makes a name of the word behind it.
const DEFINING: &[&str] = &["fn", "struct", "enum", "union", "trait", "type", "const", "static"];

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    facts: Facts,
    within: Module,
    /// What each open brace began, innermost last.
    open: Vec<Open>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Module,
    /// What stands in it may well be items.
    Macro,
    Body,
}

pub fn facts(source: &str) -> Facts {
    let mut parser = Parser {
        tokens: tokens(source),
        at: 0,
        facts: Facts::default(),
        within: Module::new(),
        open: Vec::new(),
    };
    while parser.at < parser.tokens.len() {
        parser.step();
    }
    parser.facts
}

impl<'a> Parser<'a> {
    fn text(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |t| t.text)
    }

    fn before(&self, back: usize) -> &'a str {
        self.at.checked_sub(back).map_or("", |at| self.tokens[at].text)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(0, |t| t.line)
    }

    fn step(&mut self) {
        match self.text(0) {
            "#" if self.text(1) == "[" || (self.text(1) == "!" && self.text(2) == "[") => self.attribute(),
            "use" if self.text(1) != "<" => self.use_line(),
            "mod" if self.text(2) == "{" => {
                self.define(self.text(1));
                self.within.push(self.text(1).to_owned());
                self.facts.inner.insert(self.within.clone());
                self.open.push(Open::Module);
                self.at += 3;
            }
            "macro_rules" if self.text(1) == "!" => {
                self.define(self.text(2));
                self.at += 3;
            }
            "{" => {
                // `name! { … }`, or `name! name { … }`.
                let is_macro = self.before(1) == "!" || self.before(2) == "!";
                self.open.push(if is_macro { Open::Macro } else { Open::Body });
                self.at += 1;
            }
            "}" => {
                if self.open.pop() == Some(Open::Module) {
                    self.within.pop();
                }
                self.at += 1;
            }
            word if DEFINING.contains(&word) && !self.open.contains(&Open::Body) => {
                self.at += 1;
                if self.tokens.get(self.at).is_some_and(Token::is_word) && !DEFINING.contains(&self.text(0)) {
                    self.define(self.text(0));
                }
            }
            _ => self.words(),
        }
    }

    fn define(&mut self, name: &str) {
        self.facts.defines.insert((self.within.clone(), name.to_owned()));
    }

    /// A word, or a path of them.
    fn words(&mut self) {
        if !self.tokens[self.at].is_word() || self.before(1) == "." {
            self.at += 1;
            return;
        }
        let (line, begins_elsewhere) = (self.line(), self.before(1) == "::");
        let mut path = vec![self.text(0).to_owned()];
        self.at += 1;
        while self.text(0) == "::" && self.tokens.get(self.at + 1).is_some_and(Token::is_word) {
            path.push(self.text(1).to_owned());
            self.at += 2;
        }
        for word in &path {
            self.facts.words.entry(word.clone()).or_insert(line);
        }
        if path.len() > 1 && !begins_elsewhere {
            self.facts.mentions.push(Mention { within: self.within.clone(), path, line });
        }
    }

    fn attribute(&mut self) {
        let begin = self.at;
        self.skip_brackets();
        let said: String = self.tokens[begin..self.at].iter().map(|t| t.text).collect();
        if said == "#[cfg(test)]" || said.starts_with("#[cfg(all(test,") {
            self.skip_item();
        }
    }

    /// From before a bracket to behind its partner.
    fn skip_brackets(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 && matches!(self.before(1), ")" | "]" | "}") {
                return;
            }
        }
    }

    /// What an attribute belongs to: an item, a field, a statement.
    fn skip_item(&mut self) {
        while self.text(0) == "#" {
            self.skip_brackets();
        }
        while self.text(0) == "pub" {
            self.at += 1;
            if self.text(0) == "(" {
                self.skip_brackets();
            }
        }
        if self.text(0) == "mod" && self.text(2) == ";" {
            self.facts.test_modules.insert(self.text(1).to_owned());
        }
        let is_item = DEFINING.contains(&self.text(0))
            || matches!(self.text(0), "use" | "mod" | "impl" | "unsafe" | "async" | "extern");
        let ends_with_semicolon = matches!(self.text(0), "use" | "static" | "type" | "let")
            || (self.text(0) == "const" && self.text(1) != "fn");
        while self.at < self.tokens.len() {
            match self.text(0) {
                ";" => {
                    self.at += 1;
                    return;
                }
                "," if !is_item => {
                    self.at += 1;
                    return;
                }
                "{" if !ends_with_semicolon => return self.skip_brackets(),
                "(" | "[" | "{" => self.skip_brackets(),
                "}" => return,
                _ => self.at += 1,
            }
        }
    }

    fn use_line(&mut self) {
        let is_passed_on = self.before(1) == "pub" || (self.before(1) == ")" && self.before(4) == "pub");
        self.at += 1;
        if self.text(0) == "::" {
            // Another crate's, always.
            while self.at < self.tokens.len() && self.text(0) != ";" {
                self.at += 1;
            }
            return;
        }
        self.use_tree(&mut Vec::new(), is_passed_on);
    }

    /// `a::b`, `a::{b, c as d}`, `a::*`, up to what ends it.
    fn use_tree(&mut self, prefix: &mut Vec<String>, is_passed_on: bool) {
        let depth = prefix.len();
        let line = self.line();
        loop {
            match self.text(0) {
                "{" => {
                    self.at += 1;
                    while self.at < self.tokens.len() && self.text(0) != "}" {
                        self.use_tree(prefix, is_passed_on);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    break;
                }
                "*" => {
                    self.at += 1;
                    self.bring_in(prefix.clone(), None, is_passed_on, line);
                    break;
                }
                "::" => self.at += 1,
                _ if self.tokens.get(self.at).is_some_and(Token::is_word) => {
                    prefix.push(self.text(0).to_owned());
                    self.at += 1;
                    if self.text(0) == "::" {
                        continue;
                    }
                    // `self` in braces is the module itself.
                    if prefix.len() > 1 && prefix.last().is_some_and(|word| word == "self") {
                        prefix.pop();
                    }
                    let mut name = prefix.last().cloned();
                    if self.text(0) == "as" {
                        name = Some(self.text(1).to_owned());
                        self.at += 2;
                    }
                    self.bring_in(prefix.clone(), name, is_passed_on, line);
                    break;
                }
                _ => {
                    // Nothing that is known here: no file is to make this go round for ever.
                    self.at += 1;
                    break;
                }
            }
        }
        prefix.truncate(depth);
    }

    fn bring_in(&mut self, path: Vec<String>, name: Option<String>, is_passed_on: bool, line: u32) {
        self.facts.uses.push(Use { within: self.within.clone(), path, name, is_passed_on, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_paths_and_definitions_are_found_and_tests_are_not() {
        let facts = facts(
            "pub(crate) use a::{self, b::{C as D, E}, f::*};
             #[cfg(test)] mod only_tests;
             #[cfg(test)] #[allow(dead_code)] mod inline { use crate::not_seen::X; }
             #[cfg(test)] use crate::not_seen::{Y, Z};
             #[derive(Debug)] struct S { #[cfg(test)] t: crate::not_seen::T, u: crate::seen::U }
             mod inner { fn g() { super::h(crate::i::J::new::<K>(), x.l) } }
             made! { pub enum M { N } }
             const fn o() -> impl Sized + use<> { struct NotAnItem; }",
        );
        let uses: Vec<_> = facts
            .uses
            .iter()
            .map(|u| format!("{} as {:?} {}", u.path.join("::"), u.name, u.is_passed_on))
            .collect();
        assert_eq!(
            uses,
            [
                "a as Some(\"a\") true",
                "a::b::C as Some(\"D\") true",
                "a::b::E as Some(\"E\") true",
                "a::f as None true"
            ]
        );
        let mentions: Vec<_> = facts
            .mentions
            .iter()
            .map(|m| format!("{}:{}:{}", m.within.join("::"), m.path.join("::"), m.line))
            .collect();
        assert_eq!(mentions, [":crate::seen::U:5", "inner:super::h:6", "inner:crate::i::J::new:6"]);
        let defines: Vec<_> = facts.defines.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(defines, ["M", "S", "inner", "o", "g"]);
        assert!(facts.test_modules.contains("only_tests"));
        assert!(!facts.words.contains_key("l"), "a field");
    }
}
