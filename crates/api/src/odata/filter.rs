//! `$filter`: the part of OData's expressions that Azure's clients use, parsed into a tree of bounded depth.
//!
//! Comparisons `name eq 'text'` (also `ne gt ge lt le`, and either way round), `and`, `or`, `not`, parentheses, functions such as
//! `startswith(name, 'x')`; text in single quotes with `''` for one; numbers; bare words such as `true`, GUIDs and
//! times. Keywords match without regard to case, and so do names where they are compared with a list's.

use crate::limits;
use std::fmt;
use thiserror::Error;

/// Why a filter is refused; completes "Invalid $filter '…' specified in the query string: …".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Of [`limits::FILTER_MAX_BYTES`].
    #[error("it is longer than {} bytes", limits::FILTER_MAX_BYTES)]
    TooLong,
    /// Of [`limits::FILTER_DEPTH_MAX`].
    #[error("it is nested too deeply")]
    TooDeep,
    /// Of [`limits::FILTER_TERMS_MAX`].
    #[error("it has more than {} comparisons", limits::FILTER_TERMS_MAX)]
    TooManyTerms,
    /// It would reach to the end.
    #[error("a quote is not closed")]
    OpenQuote,
    /// What was found where something else had to be.
    #[error("unexpected '{0}'")]
    Unexpected(String),
    /// Something has to follow.
    #[error("it ends too early")]
    EndsEarly,
    /// Two values, or two names.
    #[error("a comparison needs a name on one side and a value on the other")]
    NoName,
    /// This list takes [`Filter::equalities`] alone.
    #[error("only comparisons with eq, joined by and, are supported here")]
    OnlyEqualities,
    /// Of a list that says by what it can be filtered.
    #[error("this list cannot be filtered by '{name}'; it can by {known}")]
    UnknownName {
        /// As it was given.
        name: String,
        /// Those that are, for people.
        known: String,
    },
    /// Of a name whose values are known.
    #[error("'{name}' is never '{value}'; it is one of {known}")]
    UnknownValue {
        /// As the list has it.
        name: String,
        /// As it was given.
        value: String,
        /// Those that there are, for people.
        known: String,
    },
    /// Which of two values would count is for nobody to guess. The name.
    #[error("'{0}' is given twice")]
    Twice(String),
    /// The text.
    #[error("'{0}' is not a time such as 2026-11-01 12:00:00 AM or 2026-11-01T00:00:00Z")]
    NotATime(String),
}

/// How a name and a value compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Greater than.
    Gt,
    /// Greater than or equal.
    Ge,
    /// Less than.
    Lt,
    /// Less than or equal.
    Le,
}

impl Operator {
    const ALL: [(&'static str, Self); 6] = [
        ("eq", Self::Eq),
        ("ne", Self::Ne),
        ("gt", Self::Gt),
        ("ge", Self::Ge),
        ("lt", Self::Lt),
        ("le", Self::Le),
    ];

    fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, op)| *op)
    }

    /// The operator for the sides exchanged.
    fn mirrored(self) -> Self {
        match self {
            Self::Eq | Self::Ne => self,
            Self::Gt => Self::Lt,
            Self::Lt => Self::Gt,
            Self::Ge => Self::Le,
            Self::Le => Self::Ge,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, op)| op == self).map_or("?", |(name, _)| name))
    }
}

/// What a name is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// It was in quotes; unescaped.
    Text(String),
    /// A number, as written.
    Number(String),
    /// Bare: `true`, `null`, a GUID, a time, or a name.
    Word(String),
}

impl Value {
    /// What it says, whichever way it was written: Azure's clients quote the same value or not.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) | Self::Word(text) => text,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Number(text) | Self::Word(text) => f.write_str(text),
        }
    }
}

/// A filter as a tree, no deeper than [`limits::FILTER_DEPTH_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// A comparison. One that was written with the value first is turned round.
    Compare {
        /// As it was given.
        name: String,
        /// Between the name and the value.
        operator: Operator,
        /// What the name is compared with.
        value: Value,
    },
    /// Both hold.
    And(Box<Expression>, Box<Expression>),
    /// One holds, or both.
    Or(Box<Expression>, Box<Expression>),
    /// That does not hold.
    Not(Box<Expression>),
    /// A function, such as `startswith(name, 'x')`.
    Call {
        /// As it was given.
        function: String,
        /// In their order; a name among them is a [`Value::Word`].
        arguments: Vec<Value>,
    },
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { name, operator, value } => write!(f, "{name} {operator} {value}"),
            Self::And(a, b) => write!(f, "({a} and {b})"),
            Self::Or(a, b) => write!(f, "({a} or {b})"),
            Self::Not(a) => write!(f, "not ({a})"),
            Self::Call { function, arguments } => {
                let arguments: Vec<_> = arguments.iter().map(Value::to_string).collect();
                write!(f, "{function}({})", arguments.join(", "))
            }
        }
    }
}

/// A whole filter. Its `Display` parses to the same expression.
///
/// ```
/// use strongroom_api::odata::Filter;
/// let filter = Filter::parse("backupManagementType eq 'AzureIaasVM' and itemType eq 'VM'")?;
/// let by = filter.equalities(&["backupManagementType", "itemType", "policyName"])?;
/// assert_eq!(by.get("itemtype"), Some("VM"));
/// assert_eq!(by.get("policyName"), None);
/// # Ok::<(), strongroom_api::odata::FilterError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What was understood of it.
    pub expression: Expression,
    source: String,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

impl Filter {
    /// Takes it apart. What names and values mean is for the list to say.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > limits::FILTER_MAX_BYTES {
            return Err(FilterError::TooLong);
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, terms: 0 };
        let expression = parser.or(0)?;
        match parser.tokens.get(parser.at) {
            None => Ok(Self { expression, source: text.to_owned() }),
            Some(token) => Err(FilterError::Unexpected(token.to_string())),
        }
    }

    /// As it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Reads the common form, `a eq 'x' and b eq 'y'`, where only the names in `known` may occur, each once.
    pub fn equalities(&self, known: &[&str]) -> Result<Equalities, FilterError> {
        let mut out = Equalities { source: self.source.clone(), values: Vec::new() };
        self.collect(&self.expression, known, &mut out)?;
        Ok(out)
    }

    fn collect(
        &self,
        expression: &Expression,
        known: &[&str],
        out: &mut Equalities,
    ) -> Result<(), FilterError> {
        match expression {
            Expression::And(a, b) => {
                self.collect(a, known, out)?;
                self.collect(b, known, out)
            }
            Expression::Compare { name, operator: Operator::Eq, value } => {
                if !known.iter().any(|k| k.eq_ignore_ascii_case(name)) {
                    return Err(FilterError::UnknownName { name: name.clone(), known: known.join(", ") });
                }
                if out.get(name).is_some() {
                    return Err(FilterError::Twice(name.clone()));
                }
                out.values.push((name.clone(), value.text().to_owned()));
                Ok(())
            }
            _ => Err(FilterError::OnlyEqualities),
        }
    }
}

/// Names and the values they are to equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Equalities {
    source: String,
    values: Vec<(String, String)>,
}

impl Equalities {
    /// The value for a name, without regard to the name's case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a field's value passes: it does if the name does not occur, and without regard to case.
    pub fn passes(&self, name: &str, value: &str) -> bool {
        self.get(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(value))
    }

    /// A name's value, as it is spelt among those that it can have: of any other nothing could be found.
    pub fn one_of<'a>(&self, name: &str, known: &[&'a str]) -> Result<Option<&'a str>, FilterError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let found = known.iter().find(|known| known.eq_ignore_ascii_case(value));
        found.map(|known| Some(*known)).ok_or_else(|| FilterError::UnknownValue {
            name: name.to_owned(),
            value: crate::error::shorten(value),
            known: known.join(", "),
        })
    }

    /// A name's value as yes or no.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, FilterError> {
        Ok(self.one_of(name, &["true", "false"])?.map(|value| value == "true"))
    }

    /// A name's value as a time.
    pub fn time(&self, name: &str) -> Result<Option<jiff::Timestamp>, FilterError> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => {
                super::parse_time(text).map(Some).ok_or_else(|| FilterError::NotATime(text.to_owned()))
            }
        }
    }

    /// The filter that it was read from, for error messages.
    pub fn source(&self) -> &str {
        &self.source
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Text(String),
    Word(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("("),
            Self::Close => f.write_str(")"),
            Self::Comma => f.write_str(","),
            Self::Text(text) | Self::Word(text) => f.write_str(&crate::error::shorten(text)),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => out.push(Token::Open),
            ')' => out.push(Token::Close),
            ',' => out.push(Token::Comma),
            '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next() {
                        None => return Err(FilterError::OpenQuote),
                        Some('\'') if chars.next_if_eq(&'\'').is_none() => break,
                        Some(c) => value.push(c),
                    }
                }
                out.push(Token::Text(value));
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                out.push(Token::Word(word));
            }
            other => return Err(FilterError::Unexpected(other.to_string())),
        }
    }
    Ok(out)
}

/// What names, numbers, GUIDs, times and the paths of nested properties are made of.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ':' | '+' | '@' | '$' | '*')
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '@' | '$'))
        && !["true", "false", "null"].iter().any(|k| word.eq_ignore_ascii_case(k))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    terms: usize,
}

impl Parser {
    fn next(&mut self) -> Result<Token, FilterError> {
        let token = self.tokens.get(self.at).cloned().ok_or(FilterError::EndsEarly)?;
        self.at += 1;
        Ok(token)
    }

    /// Takes the next token if it is this keyword.
    fn keyword(&mut self, keyword: &str) -> bool {
        let is =
            matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(is);
        is
    }

    fn take(&mut self, token: &Token) -> bool {
        let is = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(is);
        is
    }

    fn or(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.and(depth)?;
        while self.keyword("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.unary(depth)?;
        while self.keyword("and") {
            left = Expression::And(Box::new(left), Box::new(self.unary(depth)?));
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth == limits::FILTER_DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        if self.keyword("not") {
            return Ok(Expression::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.take(&Token::Open) {
            let inner = self.or(depth + 1)?;
            return match self.next()? {
                Token::Close => Ok(inner),
                other => Err(FilterError::Unexpected(other.to_string())),
            };
        }
        self.terms += 1;
        if self.terms > limits::FILTER_TERMS_MAX {
            return Err(FilterError::TooManyTerms);
        }
        let left = self.value()?;
        if let Value::Word(function) = &left
            && is_name(function)
            && self.take(&Token::Open)
        {
            return Ok(Expression::Call { function: function.clone(), arguments: self.arguments()? });
        }
        let operator = match self.next()? {
            Token::Word(word) => Operator::of(&word).ok_or(FilterError::Unexpected(word))?,
            other => return Err(FilterError::Unexpected(other.to_string())),
        };
        match (left, self.value()?) {
            (Value::Word(name), value) if is_name(&name) => Ok(Expression::Compare { name, operator, value }),
            (value, Value::Word(name)) if is_name(&name) => {
                Ok(Expression::Compare { name, operator: operator.mirrored(), value })
            }
            _ => Err(FilterError::NoName),
        }
    }

    fn value(&mut self) -> Result<Value, FilterError> {
        match self.next()? {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Word(word) if is_number(&word) => Ok(Value::Number(word)),
            // A keyword where a value should be means that one was left out.
            Token::Word(word) if is_keyword(&word) => Err(FilterError::Unexpected(word)),
            Token::Word(word) => Ok(Value::Word(word)),
            other => Err(FilterError::Unexpected(other.to_string())),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Value>, FilterError> {
        let mut out = Vec::new();
        if self.take(&Token::Close) {
            return Ok(out);
        }
        loop {
            out.push(self.value()?);
            match self.next()? {
                Token::Close => return Ok(out),
                Token::Comma if out.len() < limits::FILTER_ARGUMENTS_MAX => {}
                other => return Err(FilterError::Unexpected(other.to_string())),
            }
        }
    }
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && word.parse::<f64>().is_ok_and(f64::is_finite)
}

fn is_keyword(word: &str) -> bool {
    Operator::of(word).is_some() || ["and", "or", "not"].iter().any(|k| word.eq_ignore_ascii_case(k))
}
