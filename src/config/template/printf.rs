//! Go's `printf`, for the verbs that make sense here.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use super::MOST_BYTES;
use super::value::Value;

/// The widest field; more would only waste memory.
const MOST_WIDTH: usize = 4096;

#[derive(Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

pub fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let spec = spec(&mut chars)?;
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match values.next() {
                Some(value) => pad(&mut out, &spec, &one(verb, &spec, value)),
                None => write!(out, "%!{verb}(MISSING)").map_err(|error| error.to_string())?,
            },
        }
        if out.len() > MOST_BYTES {
            return Err(format!("printf makes more than {MOST_BYTES} bytes"));
        }
    }
    let extra: Vec<String> = values.map(|value| format!("{}={value}", value.kind())).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

fn spec(chars: &mut Peekable<Chars>) -> Result<Spec, String> {
    let mut spec = Spec::default();
    while let Some(flag) = chars.next_if(|c| "-0+# ".contains(*c)) {
        match flag {
            '-' => spec.left = true,
            '0' => spec.zero = true,
            '+' => spec.plus = true,
            '#' => spec.sharp = true,
            _ => spec.space = true,
        }
    }
    spec.width = number(chars)?;
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = Some(number(chars)?);
    }
    Ok(spec)
}

fn number(chars: &mut Peekable<Chars>) -> Result<usize, String> {
    let mut number = 0;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        number = number * 10 + digit as usize;
        if number > MOST_WIDTH {
            return Err(format!("printf width over {MOST_WIDTH}"));
        }
    }
    Ok(number)
}

fn one(verb: char, spec: &Spec, value: &Value) -> String {
    match (verb, value) {
        ('s' | 'v', Value::Text(text)) => text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect(),
        ('q', Value::Text(text)) => format!("{text:?}"),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('d' | 'v', Value::Int(number)) => signed(spec, *number < 0, number.unsigned_abs().to_string()),
        ('x', Value::Int(number)) => based(spec, *number, "0x", format!("{:x}", number.unsigned_abs())),
        ('X', Value::Int(number)) => based(spec, *number, "0X", format!("{:X}", number.unsigned_abs())),
        ('o', Value::Int(number)) => based(spec, *number, "0", format!("{:o}", number.unsigned_abs())),
        ('b', Value::Int(number)) => based(spec, *number, "0b", format!("{:b}", number.unsigned_abs())),
        ('c', Value::Int(number)) => {
            u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('f' | 'F', Value::Float(number)) => {
            signed(spec, number.is_sign_negative(), format!("{:.*}", spec.precision.unwrap_or(6), number.abs()))
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('v', other) | ('g', other @ Value::Float(_)) => other.to_string(),
        (verb, Value::Missing) => format!("%!{verb}(<nil>)"),
        (verb, other) => format!("%!{verb}({}={other})", other.kind()),
    }
}

fn based(spec: &Spec, number: i64, prefix: &str, digits: String) -> String {
    signed(spec, number < 0, if spec.sharp { format!("{prefix}{digits}") } else { digits })
}

fn signed(spec: &Spec, negative: bool, digits: String) -> String {
    let sign = match (negative, spec.plus, spec.space) {
        (true, _, _) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        _ => "",
    };
    let zeros = if spec.zero && !spec.left { spec.width.saturating_sub(digits.len() + sign.len()) } else { 0 };
    format!("{sign}{}{digits}", "0".repeat(zeros))
}

fn pad(out: &mut String, spec: &Spec, text: &str) {
    let missing = spec.width.saturating_sub(text.chars().count());
    let fill = " ".repeat(missing);
    if spec.left {
        out.push_str(text);
        out.push_str(&fill);
    } else {
        out.push_str(&fill);
        out.push_str(text);
    }
}
