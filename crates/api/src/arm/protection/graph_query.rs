//! The query language of Azure Resource Graph: the small part that is read. Whatever is not understood is refused.

use crate::ArmError;
use serde_json::{Map, Value};

const TABLE: &str = "recoveryservicesresources";

const VAULTS: &str = "microsoft.recoveryservices/locations/deletedvaults";

pub(super) const ITEMS: &str =
    "microsoft.recoveryservices/locations/deletedvaults/backupfabrics/protectioncontainers/protecteditems";

/// What a query can be about: what is of these columns only is in every row.
const COLUMNS: [&str; 8] =
    ["id", "name", "type", "location", "resourceGroup", "subscriptionId", "properties", "tags"];

/// Functions within functions.
const DEPTH_MAX: usize = 8;

pub(super) fn refused(why: impl std::fmt::Display) -> ArmError {
    ArmError::bad_request(
        "UserErrorFeatureNotSupportedOnThisServer",
        format!(
            "{why}: this query of the resource graph is not available on this server. It answers queries of the table \
             {TABLE} | where type == '{VAULTS}' (or '{VAULTS}/backupfabrics/protectioncontainers/protecteditems'), with \
             where (==, =~, contains, and), extend (strcat, tostring, tolower) and project behind it."
        ),
    )
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    /// `|`, `,`, `(`, `)`, `=`, `==`, `=~`.
    Sign(&'static str),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) | Self::Text(text) => f.write_str(&crate::error::shorten(text)),
            Self::Sign(sign) => f.write_str(sign),
        }
    }
}

fn tokens(query: &str) -> Result<Vec<Token>, ArmError> {
    let mut out = Vec::new();
    let mut chars = query.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            quote @ ('"' | '\'') => {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        Some(c) if c == quote => break,
                        // Escapes are not what any client sends here.
                        None | Some('\\' | '\n') => return Err(refused("A text has no end, or a backslash")),
                        Some(c) => text.push(c),
                    }
                }
                out.push(Token::Text(text));
            }
            '=' if chars.next_if_eq(&'=').is_some() => out.push(Token::Sign("==")),
            '=' if chars.next_if_eq(&'~').is_some() => out.push(Token::Sign("=~")),
            '=' => out.push(Token::Sign("=")),
            '|' => out.push(Token::Sign("|")),
            ',' => out.push(Token::Sign(",")),
            '(' => out.push(Token::Sign("(")),
            ')' => out.push(Token::Sign(")")),
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                out.push(Token::Word(word));
            }
            other => return Err(refused(format!("'{other}' is not understood"))),
        }
    }
    Ok(out)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

/// Something that has a value in each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    Text(String),
    /// A column, or what is within it: `properties.workloadType`.
    Column(Vec<String>),
    Join(Vec<Term>),
    Lower(Box<Term>),
}

impl Term {
    /// The columns that it reads.
    fn columns<'a>(&'a self, out: &mut Vec<&'a [String]>) {
        match self {
            Self::Text(_) => {}
            Self::Column(path) => out.push(path),
            Self::Join(parts) => parts.iter().for_each(|part| part.columns(out)),
            Self::Lower(inner) => inner.columns(out),
        }
    }

    /// As text; what a row does not have is empty there.
    fn text(&self, row: &Value) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Column(path) => match at(row, path) {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            },
            Self::Join(parts) => parts.iter().map(|part| part.text(row)).collect(),
            Self::Lower(inner) => inner.text(row).to_lowercase(),
        }
    }
}

fn at<'a>(row: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(row, |here, name| here.get(name))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    EqualAnyCase,
    Contains,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Where { left: Term, by: Comparison, right: String },
    Extend { name: String, value: Term },
    Project(Vec<String>),
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Result<Token, ArmError> {
        let token = self.tokens.get(self.at).cloned().ok_or_else(|| refused("It ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let is = self.tokens.get(self.at) == Some(&Token::Sign(sign));
        self.at += usize::from(is);
        is
    }

    fn need(&mut self, sign: &'static str) -> Result<(), ArmError> {
        match self.next()? {
            Token::Sign(found) if found == sign => Ok(()),
            other => Err(refused(format!("'{other}' is not understood"))),
        }
    }

    fn word(&mut self) -> Result<String, ArmError> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => Err(refused(format!("'{other}' is not understood"))),
        }
    }

    /// A new column, or one of a projection: a plain name.
    fn name(&mut self) -> Result<String, ArmError> {
        let word = self.word()?;
        match word.contains('.') || word.starts_with(|c: char| c.is_ascii_digit()) {
            true => Err(refused(format!("'{}' is no column", crate::error::shorten(&word)))),
            false => Ok(word),
        }
    }

    fn stages(&mut self) -> Result<Vec<Stage>, ArmError> {
        let table = self.word()?;
        if !table.eq_ignore_ascii_case(TABLE) {
            return Err(refused(format!("The table '{}' is not known", crate::error::shorten(&table))));
        }
        let mut stages = Vec::new();
        while self.at < self.tokens.len() {
            self.need("|")?;
            match self.word()?.as_str() {
                "where" => loop {
                    stages.push(self.condition()?);
                    if !self.keyword("and") {
                        break;
                    }
                },
                "extend" => loop {
                    let name = self.name()?;
                    if COLUMNS.contains(&name.as_str()) {
                        return Err(refused(format!("Another '{name}' than there is")));
                    }
                    self.need("=")?;
                    stages.push(Stage::Extend { name, value: self.term(0)? });
                    if !self.take(",") {
                        break;
                    }
                },
                "project" => {
                    let mut names = vec![self.name()?];
                    while self.take(",") {
                        names.push(self.name()?);
                    }
                    stages.push(Stage::Project(names));
                }
                other => {
                    return Err(refused(format!("'{}' is not understood", crate::error::shorten(other))));
                }
            }
        }
        Ok(stages)
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is = matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word == keyword);
        self.at += usize::from(is);
        is
    }

    fn condition(&mut self) -> Result<Stage, ArmError> {
        let left = self.term(0)?;
        let by = match self.next()? {
            Token::Sign("==") => Comparison::Equal,
            Token::Sign("=~") => Comparison::EqualAnyCase,
            Token::Word(word) if word == "contains" => Comparison::Contains,
            other => return Err(refused(format!("'{other}' is not understood"))),
        };
        match self.next()? {
            Token::Text(right) => Ok(Stage::Where { left, by, right }),
            other => Err(refused(format!("'{other}' is not a text in quotes"))),
        }
    }

    fn term(&mut self, depth: usize) -> Result<Term, ArmError> {
        if depth == DEPTH_MAX {
            return Err(refused("It is nested too deeply"));
        }
        let word = match self.next()? {
            Token::Text(text) => return Ok(Term::Text(text)),
            Token::Word(word) => word,
            other => return Err(refused(format!("'{other}' is not understood"))),
        };
        if !self.take("(") {
            return Ok(Term::Column(word.split('.').map(str::to_owned).collect()));
        }
        let mut arguments = vec![self.term(depth + 1)?];
        while self.take(",") {
            arguments.push(self.term(depth + 1)?);
        }
        self.need(")")?;
        match (word.as_str(), arguments.len()) {
            ("strcat", _) | ("tostring", 1) => Ok(Term::Join(arguments)),
            ("tolower", 1) => Ok(Term::Lower(Box::new(Term::Join(arguments)))),
            _ => Err(refused(format!("The function '{}' is not understood", crate::error::shorten(&word)))),
        }
    }
}

/// The type that all rows are of: a query that does not say is about more than what is here.
pub(super) fn kind_of(stages: &[Stage]) -> Result<&'static str, ArmError> {
    let is_type = |term: &Term| matches!(term, Term::Column(path) if path.len() == 1 && path[0] == "type");
    let wanted = stages.iter().find_map(|stage| match stage {
        Stage::Where { left, by: Comparison::Equal | Comparison::EqualAnyCase, right } => {
            let left = match left {
                Term::Lower(inner) => inner,
                other => other,
            };
            let left = match left {
                Term::Join(parts) if parts.len() == 1 => &parts[0],
                other => other,
            };
            is_type(left).then_some(right)
        }
        _ => None,
    });
    let Some(wanted) = wanted else {
        return Err(refused("It does not say which type of resource it is about"));
    };
    [VAULTS, ITEMS].into_iter().find(|known| known.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
        refused(format!("Resources of the type '{}' are not known", crate::error::shorten(wanted)))
    })
}

/// Whether every column that is read is one, so that a name that was mistyped finds not nothing but an error.
fn check_columns(term: &Term, known: &[String], rows: &[Value]) -> Result<(), ArmError> {
    let mut read = Vec::new();
    term.columns(&mut read);
    for path in read {
        let is_known = known.contains(&path[0])
            && (path.len() == 1 || rows.is_empty() || rows.iter().any(|row| at(row, path).is_some()));
        if !is_known {
            return Err(refused(format!("'{}' is no column", crate::error::shorten(&path.join(".")))));
        }
    }
    Ok(())
}

/// What the stages leave of the rows.
pub(super) fn run(stages: &[Stage], mut rows: Vec<Value>) -> Result<Vec<Value>, ArmError> {
    let mut known: Vec<String> = COLUMNS.iter().map(|&name| name.to_owned()).collect();
    // As they all were: what a where left out is no column's fault.
    let all = rows.clone();
    for stage in stages {
        match stage {
            Stage::Where { left, by, right } => {
                check_columns(left, &known, &all)?;
                rows.retain(|row| {
                    let text = left.text(row);
                    match by {
                        Comparison::Equal => text == *right,
                        Comparison::EqualAnyCase => text.to_lowercase() == right.to_lowercase(),
                        Comparison::Contains => text.to_lowercase().contains(&right.to_lowercase()),
                    }
                });
            }
            Stage::Extend { name, value } => {
                check_columns(value, &known, &all)?;
                for row in &mut rows {
                    row[name] = value.text(row).into();
                }
                known.push(name.clone());
            }
            Stage::Project(names) => {
                if let Some(name) = names.iter().find(|name| !known.contains(name)) {
                    return Err(refused(format!("'{}' is no column", crate::error::shorten(name))));
                }
                for row in &mut rows {
                    let kept = names.iter().map(|name| (name.clone(), row[name].take()));
                    *row = Value::Object(Map::from_iter(kept));
                }
                known.clone_from(names);
            }
        }
    }
    Ok(rows)
}

/// A query, read.
pub(super) fn parse(query: &str) -> Result<Vec<Stage>, ArmError> {
    Parser { tokens: tokens(query)?, at: 0 }.stages()
}
