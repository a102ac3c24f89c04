//! Pieces to a program.

use std::vec;

use super::MOST_DEPTH;
use super::lex::{Action, Kind, Piece, Token};
use super::value::Value;

#[derive(Debug)]
pub enum Node<'a> {
    Text(&'a str),
    Print(Pipeline),
    /// `if` and `with`; an `else if` is an `If` in `otherwise`.
    If {
        with: bool,
        pipeline: Pipeline,
        body: Vec<Node<'a>>,
        otherwise: Vec<Node<'a>>,
    },
    Range {
        pipeline: Pipeline,
        body: Vec<Node<'a>>,
        otherwise: Vec<Node<'a>>,
    },
    Break,
    Continue,
}

/// `$a := x | f y`
#[derive(Debug, Default)]
pub struct Pipeline {
    pub variables: Vec<String>,
    /// `:=` and not `=`.
    pub declares: bool,
    pub commands: Vec<Vec<Operand>>,
    pub line: usize,
}

/// A value and the fields taken of it.
#[derive(Debug)]
pub struct Operand {
    pub head: Head,
    pub fields: Vec<String>,
}

#[derive(Debug)]
pub enum Head {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Pipeline(Pipeline),
}

pub fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, String> {
    let mut parser = Parser { pieces: pieces.into_iter(), depth: 0, loops: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        End::Text => Ok(nodes),
        End::Closed(line) => Err(format!("template line {line}: unexpected end")),
        End::Else(action) => Err(format!("template line {}: unexpected else", action.line)),
    }
}

struct Parser<'a> {
    pieces: vec::IntoIter<Piece<'a>>,
    depth: usize,
    loops: usize,
}

/// What ended a block.
enum End {
    Text,
    Closed(usize),
    /// With the tokens behind `else`.
    Else(Action),
}

impl<'a> Parser<'a> {
    fn block(&mut self) -> Result<(Vec<Node<'a>>, End), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let mut action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let keyword = match &action.tokens[0].kind {
                Kind::Word(word) => word.clone(),
                _ => String::new(),
            };
            let line = action.line;
            match keyword.as_str() {
                "end" => return Ok((nodes, End::Closed(line))),
                "else" => {
                    action.tokens.remove(0);
                    return Ok((nodes, End::Else(action)));
                }
                "if" | "with" | "range" => nodes.push(self.branch(&keyword, action)?),
                "break" | "continue" if self.loops == 0 => {
                    return Err(format!("template line {line}: {keyword} outside of range"));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "block" | "template" => {
                    return Err(format!("template line {line}: {keyword} is not supported"));
                }
                _ => nodes.push(Node::Print(pipeline(action.tokens, line)?)),
            }
        }
        Ok((nodes, End::Text))
    }

    /// A block that starts with `keyword`, up to its `end`.
    fn branch(&mut self, keyword: &str, mut action: Action) -> Result<Node<'a>, String> {
        let line = action.line;
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(format!("template line {line}: nested too deeply"));
        }
        let loops = usize::from(keyword == "range");
        action.tokens.remove(0);
        let pipeline = pipeline(action.tokens, line)?;
        self.loops += loops;
        let (body, end) = self.block()?;
        self.loops -= loops;
        let otherwise = self.otherwise(end, line)?;
        self.depth -= 1;
        Ok(match keyword {
            "range" => Node::Range { pipeline, body, otherwise },
            _ => Node::If { with: keyword == "with", pipeline, body, otherwise },
        })
    }

    fn otherwise(&mut self, end: End, line: usize) -> Result<Vec<Node<'a>>, String> {
        let action = match end {
            End::Text => return Err(format!("template line {line}: missing end")),
            End::Closed(_) => return Ok(Vec::new()),
            End::Else(action) => action,
        };
        match action.tokens.first().map(|token| &token.kind) {
            None => {
                let (nodes, end) = self.block()?;
                match end {
                    End::Closed(_) => Ok(nodes),
                    _ => Err(format!("template line {}: else without an end", action.line)),
                }
            }
            Some(Kind::Word(word)) if word == "if" || word == "with" => {
                let word = word.clone();
                Ok(vec![self.branch(&word, action)?])
            }
            Some(_) => Err(format!("template line {}: unexpected words behind else", action.line)),
        }
    }
}

fn pipeline(tokens: Vec<Token>, line: usize) -> Result<Pipeline, String> {
    let mut reader = Operands { tokens: tokens.into_iter().peekable(), line, depth: 0 };
    reader.pipeline().map_err(|why| format!("template line {line}: {why}"))
}

struct Operands {
    tokens: std::iter::Peekable<vec::IntoIter<Token>>,
    line: usize,
    depth: usize,
}

impl Operands {
    fn pipeline(&mut self) -> Result<Pipeline, String> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err("nested too deeply".into());
        }
        let mut pipeline = Pipeline { line: self.line, ..Pipeline::default() };
        let mut command = self.declaration(&mut pipeline)?;
        loop {
            let inner = self.depth > 1;
            match self.tokens.peek().map(|token| &token.kind) {
                None if inner => return Err("unclosed parenthesis".into()),
                Some(Kind::Mark(')')) if !inner => return Err("unexpected )".into()),
                end @ (None | Some(Kind::Mark('|' | ')'))) => {
                    let more = matches!(end, Some(Kind::Mark('|')));
                    self.tokens.next();
                    if command.is_empty() {
                        return Err("missing value".into());
                    }
                    pipeline.commands.push(std::mem::take(&mut command));
                    if !more {
                        self.depth -= 1;
                        return Ok(pipeline);
                    }
                }
                Some(_) => command.push(self.operand()?),
            }
        }
    }

    /// `$a :=`, `$a, $b :=`, `$a =`; gives the start of the first command where it turns out to be none.
    fn declaration(&mut self, pipeline: &mut Pipeline) -> Result<Vec<Operand>, String> {
        let starts = |token: &Token| matches!(token.kind, Kind::Variable(_));
        if !self.tokens.peek().is_some_and(starts) {
            return Ok(Vec::new());
        }
        let first = self.operand()?;
        let mark = match self.tokens.peek().map(|token| &token.kind) {
            Some(mark @ (Kind::Declare | Kind::Mark('=' | ','))) if first.fields.is_empty() => mark.clone(),
            _ => return Ok(vec![first]),
        };
        let Head::Variable(name) = first.head else { return Err("expected a variable".into()) };
        self.tokens.next();
        pipeline.variables.push(name);
        pipeline.declares = mark == Kind::Declare;
        if mark == Kind::Mark(',') {
            let Some(Kind::Variable(second)) = self.tokens.next().map(|token| token.kind) else {
                return Err("expected a variable behind the comma".into());
            };
            pipeline.variables.push(second);
            match self.tokens.next().map(|token| token.kind) {
                Some(Kind::Declare) => pipeline.declares = true,
                Some(Kind::Mark('=')) => {}
                _ => return Err("expected :=".into()),
            }
        }
        if pipeline.variables.iter().any(String::is_empty) {
            return Err("$ cannot be set".into());
        }
        Ok(Vec::new())
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let token = self.tokens.next().ok_or("missing value")?;
        let mut fields = Vec::new();
        let head = match token.kind {
            Kind::Word(name) => Head::Function(name),
            Kind::Dot => Head::Dot,
            Kind::Field(name) => {
                fields.push(name);
                Head::Dot
            }
            Kind::Variable(name) => Head::Variable(name),
            Kind::Literal(value) => Head::Literal(value),
            Kind::Mark('(') => Head::Pipeline(self.pipeline()?),
            Kind::Mark(mark) => return Err(format!("unexpected {mark}")),
            Kind::Declare => return Err("unexpected :=".into()),
        };
        while let Some(Token { kind: Kind::Field(name), glued: true }) = self.tokens.peek() {
            fields.push(name.clone());
            self.tokens.next();
        }
        Ok(Operand { head, fields })
    }
}
