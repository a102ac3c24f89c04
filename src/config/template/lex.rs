//! Text to pieces: what is copied, and actions as tokens.

use super::value::Value;

#[derive(Debug)]
pub enum Piece<'a> {
    Text(&'a str),
    Action(Action),
}

#[derive(Debug)]
pub struct Action {
    pub tokens: Vec<Token>,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    /// Nothing is between this token and the one before: `$a.B` is one operand, `$a .B` are two.
    pub glued: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A keyword or a function.
    Word(String),
    /// `.Name`
    Field(String),
    /// `.`
    Dot,
    /// `$name`; the empty name is the root.
    Variable(String),
    Literal(Value),
    /// `|`, `(`, `)`, `,`, `=`
    Mark(char),
    /// `:=`
    Declare,
}

pub fn lex(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut trim = false;
    loop {
        let (copied, action) = match rest.split_once("{{") {
            Some((copied, action)) => (copied, Some(action)),
            None => (rest, None),
        };
        let trims_left = action.is_some_and(|action| trim_mark(action).is_some());
        let copied = if trim { copied.trim_start_matches(is_space) } else { copied };
        let copied = if trims_left { copied.trim_end_matches(is_space) } else { copied };
        if !copied.is_empty() {
            pieces.push(Piece::Text(copied));
        }
        let Some(action) = action else { return Ok(pieces) };
        line += rest[..rest.len() - action.len()].matches('\n').count();
        let body = trim_mark(action).unwrap_or(action);
        let mut lexer = Lexer { rest: body, tokens: Vec::new() };
        trim = lexer.action().map_err(|why| format!("template line {line}: {why}"))?;
        rest = lexer.rest;
        let start = line;
        line += action[..action.len() - rest.len()].matches('\n').count();
        if !lexer.tokens.is_empty() {
            pieces.push(Piece::Action(Action { tokens: lexer.tokens, line: start }));
        }
    }
}

/// What is behind `- ` at the start of an action.
fn trim_mark(action: &str) -> Option<&str> {
    action.strip_prefix('-').filter(|rest| rest.starts_with(is_space))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

struct Lexer<'a> {
    rest: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    /// Reads up to and with `}}`; says whether the text behind is trimmed.
    fn action(&mut self) -> Result<bool, String> {
        if let Some(comment) = self.rest.trim_start_matches(is_space).strip_prefix("/*") {
            self.rest = comment.split_once("*/").ok_or("unclosed comment")?.1;
            return self.end().ok_or_else(|| "a comment must end its action".into());
        }
        loop {
            if let Some(trim) = self.end() {
                if self.tokens.is_empty() {
                    return Err("missing value".into());
                }
                return Ok(trim);
            }
            let trimmed = self.rest.trim_start_matches(is_space);
            let glued = trimmed.len() == self.rest.len();
            self.rest = trimmed;
            let kind = self.token()?;
            self.tokens.push(Token { kind, glued });
        }
    }

    /// The end of the action, if it is next.
    fn end(&mut self) -> Option<bool> {
        let trimmed = self.rest.trim_start_matches(is_space);
        let spaced = trimmed.len() < self.rest.len();
        if let Some(rest) = trimmed.strip_prefix("}}") {
            self.rest = rest;
            return Some(false);
        }
        let rest = trimmed.strip_prefix("-}}").filter(|_| spaced)?;
        self.rest = rest;
        Some(true)
    }

    fn token(&mut self) -> Result<Kind, String> {
        let first = self.rest.chars().next().ok_or("unclosed action")?;
        match first {
            '|' | '(' | ')' | ',' | '=' => {
                self.rest = &self.rest[1..];
                Ok(Kind::Mark(first))
            }
            ':' => {
                self.rest = self.rest.strip_prefix(":=").ok_or("expected :=")?;
                Ok(Kind::Declare)
            }
            '"' => self.quoted(),
            '`' => {
                let (text, rest) = self.rest[1..].split_once('`').ok_or("unclosed raw string")?;
                self.rest = rest;
                Ok(Kind::Literal(Value::text(text)))
            }
            '.' if !self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.rest = &self.rest[1..];
                let name = self.word();
                Ok(if name.is_empty() { Kind::Dot } else { Kind::Field(name.into()) })
            }
            '$' => {
                self.rest = &self.rest[1..];
                Ok(Kind::Variable(self.word().into()))
            }
            '0'..='9' | '+' | '-' | '.' => self.number(),
            _ if is_word(first) => Ok(match self.word() {
                "true" => Kind::Literal(Value::Bool(true)),
                "false" => Kind::Literal(Value::Bool(false)),
                "nil" => Kind::Literal(Value::Missing),
                word => Kind::Word(word.into()),
            }),
            _ => Err(format!("unexpected {first:?}")),
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn number(&mut self) -> Result<Kind, String> {
        let signed = |at: usize, c: char| matches!(c, '+' | '-') && (at == 0 || self.rest[..at].ends_with(['e', 'E']));
        let end = self.rest.char_indices().find(|(at, c)| !(is_word(*c) || *c == '.' || signed(*at, *c)));
        let (number, rest) = self.rest.split_at(end.map_or(self.rest.len(), |(at, _)| at));
        self.rest = rest;
        let digits = number.replace('_', "");
        let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let int = hex.map_or_else(|| digits.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok());
        let float = || digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::Float);
        int.map(Value::Int).or_else(float).map(Kind::Literal).ok_or_else(|| format!("bad number {number:?}"))
    }

    fn quoted(&mut self) -> Result<Kind, String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next() {
                Some('"') => break,
                Some('\\') => text.push(escape(&mut chars)?),
                Some('\n') | None => return Err("unclosed string".into()),
                Some(c) => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(Kind::Literal(Value::text(text)))
    }
}

/// What is behind a backslash in a Go string.
fn escape(chars: &mut std::str::Chars) -> Result<char, String> {
    let digits = match chars.next() {
        Some('n') => return Ok('\n'),
        Some('t') => return Ok('\t'),
        Some('r') => return Ok('\r'),
        Some(c @ ('\\' | '"' | '\'')) => return Ok(c),
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        _ => return Err("unknown escape in a string".into()),
    };
    let code = chars.as_str().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    *chars = chars.as_str().get(digits..).unwrap_or_default().chars();
    code.and_then(char::from_u32).ok_or_else(|| "bad escape in a string".into())
}
