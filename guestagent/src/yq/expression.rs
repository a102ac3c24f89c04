//! Evaluates an expression: jq's language, with keys as yq has them. What is wrong is said without quoting expression
//! or file: either may hold a secret, and what a boot says is in a log.

use jaq_core::load::{Arena, File, Loader, parse};
use jaq_core::{Compiler, Ctx, Vars, compile, data, unwrap_valr};
use jaq_json::{Val, read};
use serde_json::Value;

use super::Failure;

/// What would look further than the file; refused here by name, and not there at all.
const DISABLED: &[&str] = &[
    "env",
    "strenv",
    "envsubst",
    "$ENV",
    "$__loc__",
    "load",
    "load_str",
    "load_base64",
    "load_xml",
    "load_props",
    "system",
    "input",
    "inputs",
    "halt",
    "halt_error",
    "import",
    "include",
];

/// What definitions of jq's library use and is left out here, for the size of the program.
const ABSENT: &str = r#"
def absent: error("dates, regular expressions, logarithms and encodings are not part of this jq");
def stderr_empty: empty; def debug_empty: empty;
def ilogb: absent; def tgamma: absent; def scalbln(a; b): absent; def pow(a; b): absent; def remainder(a; b): absent;
def copysign(a; b): absent; def nextafter(a; b): absent;
def matches(a; b): absent; def split_(a; b): absent; def split_matches(a; b): absent;
def todateiso8601: absent; def fromdateiso8601: absent;
def escape_html: absent; def unescape_html: absent; def encode_uri: absent; def decode_uri: absent;
def encode_base64: absent; def decode_base64: absent;
"#;

pub fn evaluate(expression: &str, value: &Value) -> Result<Value, Failure> {
    let code = prepared(expression)?;
    let arena = Arena::default();
    let absent = parse(ABSENT, |parser| parser.defs()).ok_or("the definitions cannot be read")?;
    let defs = jaq_core::defs().chain(absent).chain(jaq_std::defs()).chain(jaq_json::defs());
    let modules = Loader::new(defs).load(&arena, File { code: code.as_str(), path: () });
    let modules = modules.map_err(|_| "the expression is no jq")?;
    let funs = jaq_core::funs().chain(jaq_std::base_funs()).chain(jaq_json::funs());
    let filter = Compiler::default().with_funs(funs).compile(modules);
    let filter = filter.map_err(|errors| unknown(&errors))?;

    let input = read::parse_single(value.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    let mut results = filter.id.run((context, input)).map(unwrap_valr);
    let result = results.next().ok_or("the expression gives nothing")?;
    let result = result.map_err(|error| {
        // Has values of the file in it, which may be secrets.
        tracing::debug!("{error}");
        "the expression does not fit the file (--debug tells more)"
    })?;
    if results.next().is_some() {
        return Err("the expression gives more than one result".into());
    }
    serde_json::from_str(&result.to_string()).map_err(|error| format!("the expression gives no JSON: {error}"))
}

/// The names that the compiler does not know.
fn unknown<P>(errors: &compile::Errors<&str, P>) -> String {
    let names: Vec<&str> = errors.iter().flat_map(|(_, errors)| errors.iter().map(|(name, _)| *name)).collect();
    format!("the expression uses {}, which is not there", names.join(", "))
}

/// The expression as jq has to be told: keys such as `.live-restore` in quotes, which jq takes for a subtraction, and
/// before an assignment the objects on the way to its key, which yq makes where there is nothing.
fn prepared(expression: &str) -> Result<String, Failure> {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => text_length(rest),
            '#' => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '.' => {
                let (keys, length) = path(rest);
                if keys.is_empty() {
                    1
                } else {
                    put_path(&mut out, &keys, is_assigned(&rest[length..]));
                    rest = &rest[length..];
                    continue;
                }
            }
            _ => {
                let word = word_length(rest);
                if DISABLED.contains(&&rest[..word]) {
                    return Err(format!("{:?} is disabled in expressions", &rest[..word]));
                }
                word.max(c.len_utf8())
            }
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Ok(out)
}

/// Appends a path, and before it what makes the objects that it leads through.
fn put_path(out: &mut String, keys: &[String], is_assigned: bool) {
    let before = out.trim_end();
    let begins = before.is_empty() || ["|", "(", "then", "else"].iter().any(|word| before.ends_with(word));
    if is_assigned && begins {
        for count in 0..keys.len() {
            let way = if count == 0 { "." } else { &keys[..count].concat() };
            out.push_str(&format!("{way} |= (. // {{}}) | "));
        }
    }
    keys.iter().for_each(|key| out.push_str(key));
}

/// Whether what follows a path changes it.
fn is_assigned(rest: &str) -> bool {
    let rest = rest.trim_start();
    let is_plain = rest.starts_with('=') && !rest.starts_with("==");
    is_plain || ["|=", "+=", "-=", "*=", "/=", "//="].iter().any(|sign| rest.starts_with(sign))
}

/// The keys at the beginning, each as `."key"`, and how long they are: `.a`, `.a-b`, `."a"`, `.["a"]`, `["a"]`.
fn path(rest: &str) -> (Vec<String>, usize) {
    let mut keys: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some((key, length)) = key(&rest[at..], keys.is_empty()) {
        keys.push(key);
        at += length;
    }
    (keys, at)
}

fn key(rest: &str, is_first: bool) -> Option<(String, usize)> {
    let inner = rest.strip_prefix('.');
    if let Some(word) = inner.map(key_length).filter(|length| *length > 0) {
        return Some((format!(".\"{}\"", &rest[1..1 + word]), 1 + word));
    }
    let (open, close) = match inner {
        Some(inner) if inner.starts_with('"') => (1, ""),
        Some(inner) if inner.starts_with("[\"") => (2, "]"),
        None if rest.starts_with("[\"") && !is_first => (1, "]"),
        _ => return None,
    };
    let text = &rest[open..open + text_length(&rest[open..])];
    let is_whole = text.len() > 1 && text.ends_with('"') && !text.contains("\\(");
    (is_whole && rest[open + text.len()..].starts_with(close))
        .then(|| (format!(".{text}"), open + text.len() + close.len()))
}

fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn word_length(rest: &str) -> usize {
    let start = usize::from(rest.starts_with('$'));
    rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |at| at + start)
}

/// A key, and the dashes within it.
fn key_length(rest: &str) -> usize {
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    let mut length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    while length > 0 && rest[length..].starts_with('-') {
        match rest[length + 1..].find(|c| !is_word(c)).unwrap_or(rest.len() - length - 1) {
            0 => break,
            more => length += 1 + more,
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_of_templates_give_what_yq_gives() {
        let docker = ".features.cdi = true |\n.features.containerd-snapshotter = false\n";
        for (expression, before, after) in [
            (docker, json!(null), json!({"features": {"cdi": true, "containerd-snapshotter": false}})),
            (
                ".Socket.SocketUser=\"ada\"",
                json!({"Socket": {"x": "1"}}),
                json!({"Socket": {"x": "1", "SocketUser": "ada"}}),
            ),
            (".a.b += [\"x\"]", json!({"a": {"b": ["w"]}}), json!({"a": {"b": ["w", "x"]}})),
            ("del(.x-y.z)", json!({"x-y": {"z": 1, "q": 2}}), json!({"x-y": {"q": 2}})),
            (".[\"a-b\"] = 1 | .\"c-d\" = 2", json!({}), json!({"a-b": 1, "c-d": 2})),
            (".a[] |= select(. > 1)", json!({"a": [1, 2, 3]}), json!({"a": [2, 3]})),
            (".a = \"env(HOME) # no\" # load", json!({}), json!({"a": "env(HOME) # no"})),
            (".n = 5 - 3 | .m = .n -1", json!({}), json!({"n": 2, "m": 1})),
            (".a.b.c = 1", json!({"a": {"x": 0}}), json!({"a": {"x": 0, "b": {"c": 1}}})),
            (".a[\"b\"].[\"c-d\"].\"e\" |= 2", json!({}), json!({"a": {"b": {"c-d": {"e": 2}}}})),
            (".l[] |= (.m.n = 1)", json!({"l": [{}]}), json!({"l": [{"m": {"n": 1}}]})),
            ("if .a.b == null then .a.b = 1 else .a.b = 2 end", json!({}), json!({"a": {"b": 1}})),
            (".a = .b.c", json!({}), json!({"a": null})),
            (".env = .load", json!({"load": 1}), json!({"load": 1, "env": 1})),
        ] {
            assert_eq!(evaluate(expression, &before), Ok(after), "{expression}");
        }
    }

    #[test]
    fn i7_nothing_but_the_file_is_seen() {
        for expression in
            ["env(HOME)", ".a = strenv(HOME)", "load(\"/etc/passwd\")", "system(\"id\")", "$__loc__", "$ENV"]
        {
            let error = evaluate(expression, &json!({})).unwrap_err();
            assert!(error.contains("disabled"), "{expression}: {error}");
        }
        for expression in ["\"\\(env)\"", "\"\\($ENV.HOME)\"", "\"\\(input)\"", "include \"/etc/passwd\"; ."] {
            assert!(evaluate(expression, &json!({})).is_err(), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_or_has_not_one_result_is_refused() {
        for expression in [
            ".a =",
            "nothing_of_the_kind",
            ".[]",
            "empty",
            "\"",
            "\"\\",
            ".a-",
            "error(\"x\")",
            ".[0] | test(\"a\")",
            "\u{e9}",
        ] {
            assert!(evaluate(expression, &json!([1, 2])).is_err(), "{expression}");
        }
    }
}
