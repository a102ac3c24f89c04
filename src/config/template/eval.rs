//! Runs a program. Every step and every byte made costs fuel.

use super::functions::{self, shortcut};
use super::parse::{Head, Node, Operand, Pipeline};
use super::value::Value;
use super::{Fuel, MOST_BYTES};

pub fn run(nodes: &[Node], root: &Value, fuel: &mut Fuel) -> Result<String, String> {
    let mut run = Run { out: String::new(), fuel, variables: vec![(String::new(), root.clone())] };
    run.nodes(nodes, root)?;
    Ok(run.out)
}

const MOST_VARIABLES: usize = 1000;

struct Run<'a> {
    out: String,
    fuel: &'a mut Fuel,
    /// The innermost last; the empty name is the root.
    variables: Vec<(String, Value)>,
}

/// How a block ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            self.spend(1)?;
            let flow = match node {
                Node::Text(text) => self.write(text)?,
                Node::Print(pipeline) => self.print(pipeline, dot)?,
                Node::If { with, pipeline, body, otherwise } => self.branch(*with, pipeline, body, otherwise, dot)?,
                Node::Range { pipeline, body, otherwise } => self.range(pipeline, body, otherwise, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn spend(&mut self, cost: usize) -> Result<(), String> {
        self.fuel.0 = self.fuel.0.checked_sub(cost).ok_or("the templates of the document take too many steps")?;
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<Flow, String> {
        self.spend(text.len())?;
        if self.out.len() + text.len() > MOST_BYTES {
            return Err(format!("the template makes more than {MOST_BYTES} bytes"));
        }
        self.out.push_str(text);
        Ok(Flow::On)
    }

    fn print(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Flow, String> {
        let value = self.pipeline(pipeline, dot)?;
        if !pipeline.variables.is_empty() {
            return Ok(Flow::On);
        }
        match &value {
            Value::Text(text) => self.write(text),
            other => self.write(&other.to_string()),
        }
    }

    fn branch(
        &mut self,
        with: bool,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, String> {
        let mark = self.variables.len();
        let value = self.pipeline(pipeline, dot)?;
        let flow = match (value.is_true(), with) {
            (true, true) => self.nodes(body, &value),
            (true, false) => self.nodes(body, dot),
            (false, _) => self.nodes(otherwise, dot),
        };
        self.variables.truncate(mark);
        flow
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, String> {
        let mark = self.variables.len();
        let items = items(self.commands(pipeline, dot)?)?;
        self.spend(items.len())?;
        if items.is_empty() {
            let flow = self.nodes(otherwise, dot);
            self.variables.truncate(mark);
            return flow;
        }
        for (key, item) in items {
            self.spend(1)?;
            match pipeline.variables.as_slice() {
                [value] => self.set(value, item.clone(), pipeline.declares)?,
                [index, value] => {
                    self.set(index, key, pipeline.declares)?;
                    self.set(value, item.clone(), pipeline.declares)?;
                }
                _ => {}
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(mark);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) -> Result<(), String> {
        if declares {
            // They are searched one by one.
            if self.variables.len() >= MOST_VARIABLES {
                return Err(format!("more than {MOST_VARIABLES} variables"));
            }
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        known.ok_or_else(|| format!("undefined variable ${name}"))?.1 = value;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipeline, dot)?;
        match pipeline.variables.as_slice() {
            [] => {}
            [name] => self.set(name, value.clone(), pipeline.declares)?,
            _ => return Err(format!("template line {}: only range sets two variables", pipeline.line)),
        }
        Ok(value)
    }

    /// The value of the last command; each one's value is the last argument of the next.
    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut piped = None;
        for command in &pipeline.commands {
            let value = self.command(command, piped, dot).map_err(|why| match why.starts_with("template line") {
                true => why,
                false => format!("template line {}: {why}", pipeline.line),
            })?;
            piped = Some(value);
        }
        piped.ok_or_else(|| "missing value".into())
    }

    fn command(&mut self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        let Some((first, rest)) = command.split_first() else { return Err("missing value".into()) };
        if let Head::Function(name) = &first.head {
            let value = self.call(name, rest, piped, dot)?;
            return self.fields(value, &first.fields);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("only a function takes arguments".into());
        }
        self.operand(first, dot)
    }

    fn call(&mut self, name: &str, operands: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        self.spend(1)?;
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            arguments.push(self.operand(operand, dot)?);
            // `and` and `or` do not look at what cannot change their answer.
            if let Some(value) = shortcut(name, &arguments) {
                return Ok(value);
            }
        }
        arguments.extend(piped);
        let cost: usize = arguments.iter().map(size).sum();
        self.spend(cost)?;
        let value = functions::call(name, &arguments)?;
        let made = size(&value);
        if made > MOST_BYTES {
            return Err(format!("{name} makes more than {MOST_BYTES} bytes"));
        }
        self.spend(made)?;
        Ok(value)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        self.spend(1)?;
        let value = match &operand.head {
            Head::Dot => dot.clone(),
            Head::Literal(value) => value.clone(),
            Head::Function(name) => self.call(name, &[], None, dot)?,
            Head::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            Head::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.ok_or_else(|| format!("undefined variable ${name}"))?.1.clone()
            }
        };
        self.fields(value, &operand.fields)
    }

    fn fields(&mut self, mut value: Value, fields: &[String]) -> Result<Value, String> {
        for field in fields {
            self.spend(1)?;
            value = match &value {
                Value::Map(map) => map.get(field).cloned().unwrap_or(Value::Missing),
                Value::Missing => Value::Missing,
                other => return Err(format!("cannot take field {field} of a {}", other.kind())),
            };
        }
        Ok(value)
    }
}

/// What it costs to look at a value.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.iter().map(|item| size(item) + 1).sum(),
        Value::Map(map) => map.iter().map(|(key, value)| key.len() + size(value) + 1).sum(),
        _ => 1,
    }
}

/// The pairs that a range goes through.
fn items(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Missing => Ok(Vec::new()),
        Value::List(items) => {
            Ok(items.iter().enumerate().map(|(index, item)| (Value::Int(index as i64), item.clone())).collect())
        }
        Value::Map(map) => Ok(map.iter().map(|(key, value)| (Value::text(key), value.clone())).collect()),
        other => Err(format!("cannot range over a {}", other.kind())),
    }
}
