//! What Go's text/template makes of the same texts; expectations are from its documentation.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::tests::worked;

fn expand(text: &str, root: &Value) -> Result<String, String> {
    super::expand(text, root, &mut Fuel::default())
}

fn root() -> Value {
    Value::map([
        ("Name", Value::text("foo")),
        ("Empty", Value::text("")),
        ("UID", Value::Int(501)),
        ("Yes", Value::Bool(true)),
        ("Param", Value::map([("X", Value::text("x y")), ("Flag", Value::text("true"))])),
        ("List", Value::List([Value::text("a"), Value::text("b"), Value::text("c")].into())),
    ])
}

fn assert_expands(table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(expand(text, &root()).as_deref(), Ok(*expected), "{text}");
    }
}

#[test]
fn fields_are_printed() {
    assert_expands(&[
        ("no action", "no action"),
        ("{{.Name}}", "foo"),
        ("a {{ .Name }} b {{.UID}}", "a foo b 501"),
        ("{{.Param.X}}", "x y"),
        ("{{$.Param.X}}", "x y"),
        ("{{(.Param).X}}", "x y"),
        ("{{.Nope}}", "<no value>"),
        ("{{.Param.Nope}}", "<no value>"),
        ("{{.Nope.Deeper}}", "<no value>"),
        ("{{.List}} {{.Param}}", "[a b c] map[Flag:true X:x y]"),
        ("}} { {{`raw \\n`}} {{\"q\\t\\u00e9\\\"\"}}", "}} { raw \\n q\t\u{e9}\""),
        ("{{1}} {{-2}} {{1.5}} {{0x1F}} {{1e3}} {{true}}", "1 -2 1.5 31 1000 true"),
    ]);
}

#[test]
fn trim_markers_take_white_space() {
    assert_expands(&[
        ("a  {{- .Name -}}  \n b", "afoob"),
        ("a {{ .Name -}}\n\n", "a foo"),
        ("a\n{{- /* a comment */ -}}\nb", "ab"),
        ("a{{/* x */}}b", "ab"),
        ("{{- 3}}", "3"),
        ("{{-3}}", "-3"),
    ]);
}

#[test]
fn blocks_are_chosen_and_repeated() {
    assert_expands(&[
        ("{{if .Name}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
        ("{{if .Nope}}a{{else if eq .UID 501}}b{{else}}c{{end}}", "b"),
        ("{{if .Nope}}a{{else if false}}b{{else}}c{{end}}", "c"),
        ("{{with .Param}}{{.X}}{{end}}", "x y"),
        ("{{with .Nope}}a{{else}}{{.Name}}{{end}}", "foo"),
        ("{{with $x := .Name}}{{$x}}{{end}}", "foo"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b><c>"),
        ("{{range $i, $e := .List}}{{$i}}{{$e}} {{end}}", "0a 1b 2c "),
        ("{{range $k, $v := .Param}}{{$k}}={{$v}};{{end}}", "Flag=true;X=x y;"),
        ("{{range .Nope}}a{{else}}none{{end}}", "none"),
        ("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
        ("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range .List}}{{$.Name}}{{end}}", "foofoofoo"),
    ]);
}

#[test]
fn variables_have_the_scope_of_their_block() {
    assert_expands(&[
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
        ("{{$x := .Param}}{{$x.X}}", "x y"),
    ]);
    assert!(expand("{{if true}}{{$x := 1}}{{end}}{{$x}}", &root()).is_err());
}

#[test]
fn functions_answer_as_gos() {
    assert_expands(&[
        ("{{and .Name .UID}} {{and .Empty (index .List 9)}}", "501 "),
        ("{{or .Empty .Name}} {{or true (index .List 9)}}", "foo true"),
        ("{{not .Empty}} {{not true}}", "true false"),
        ("{{eq .Name \"a\" \"foo\"}} {{ne .UID 5}} {{eq .Nope \"a\"}}", "true true false"),
        ("{{lt 1 2}} {{ge \"b\" \"a\"}}", "true true"),
        ("{{len .Name}} {{len .List}} {{.Name | len}}", "3 3 3"),
        ("{{index .List 1}} {{index .Param \"X\"}}", "b x y"),
        ("{{if and (eq .Name \"foo\") (not .Empty)}}y{{end}}", "y"),
        ("{{if eq .Param.Flag \"true\"}}on{{end}}", "on"),
        ("{{print 1 2 \"a\" 3}} {{println \"x\"}}", "1 2a3 x\n"),
    ]);
}

#[test]
fn printf_formats_as_gos() {
    assert_expands(&[
        ("{{printf \"%s-%d %v\" .Name .UID true}}", "foo-501 true"),
        ("{{.UID | printf \"%05d|%-5d|%5d|%x\" 1 2 3}}", "00001|2    |    3|1f5"),
        ("{{printf \"%q %t %.2f %%\" .Name false 1.5}}", "\"foo\" false 1.50 %"),
        ("{{printf \"%d\" .Name}}", "%!d(string=foo)"),
        ("{{printf \"%s\"}}", "%!s(MISSING)"),
        ("{{printf \"a\" 1}}", "a%!(EXTRA int=1)"),
    ]);
}

#[test]
fn what_is_no_template_is_said_with_its_line() {
    for (text, words) in [
        ("{{", "unclosed action"),
        ("{{}}", "missing value"),
        ("\n\n{{.Name", "template line 3: unclosed action"),
        ("{{if}}{{end}}", "missing value"),
        ("{{if true}}", "missing end"),
        ("{{end}}", "unexpected end"),
        ("{{else}}", "unexpected else"),
        ("{{if true}}{{else}}{{else}}{{end}}", "else without an end"),
        ("{{nope}}", "function \"nope\" is not defined"),
        ("{{env \"HOME\"}}", "is not defined"),
        ("{{.Name.X}}", "cannot take field X of a string"),
        ("{{.Name 1}}", "only a function takes arguments"),
        ("{{eq 1 \"a\"}}", "cannot compare"),
        ("{{(1}}", "unclosed parenthesis"),
        ("{{1)}}", "unexpected )"),
        ("{{1 | }}", "missing value"),
        ("{{\"a}}", "unclosed string"),
        ("{{`a}}", "unclosed raw string"),
        ("{{/* a}}", "unclosed comment"),
        ("{{template \"x\"}}", "not supported"),
        ("{{break}}", "outside of range"),
        ("{{range 3}}{{end}}", "cannot range over a int"),
        ("{{$x}}", "undefined variable"),
        ("{{'}}", "unexpected"),
        ("{{#}}", "unexpected"),
        ("{{$ := 1}}", "cannot be set"),
    ] {
        let why = expand(text, &root()).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn hostile_templates_end_soon() {
    let doubling = format!("{{{{$x := \"aaaaaaaa\"}}}}{}", "{{$x = printf \"%s%s\" $x $x}}".repeat(60));
    let ranges = format!("{}{{{{.}}}}{}", "{{range $.L}}".repeat(30), "{{end}}".repeat(30));
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
    let blocks = "{{if true}}".repeat(50_000);
    let wide = "{{printf \"%4000d\" 1}}".repeat(10_000);
    let root = Value::map([("L", Value::List(vec![Value::Int(1); 10].into()))]);
    for text in [doubling, ranges, parens, blocks, wide] {
        let start = worked();
        assert!(expand(&text, &root).is_err());
        assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
    }
}

proptest! {
    #[test]
    fn any_text_expands_or_says_why(text in ".*") {
        let _ = expand(&text, &root());
        let _ = expand(&format!("{{{{{text}}}}}"), &root());
    }

    #[test]
    fn any_tokens_expand_or_say_why(
        words in prop::collection::vec(prop::sample::select(vec![
            "{{", "}}", "{{-", "-}}", " ", "\n", "if", "else", "end", "range", "with", ".", ".Name", ".Param", ".X", "$", "$x",
            ":=", "=", ",", "|", "(", ")", "\"a\"", "`b`", "1", "-1", "1.5", "true", "nil", "and", "or", "not", "eq",
            "len", "index", "printf", "print", "\"%5d%s\"", "/*", "*/", "break", "continue", ".List", "\\", "text",
        ]), 0..40)
    ) {
        let _ = expand(&words.concat(), &root());
        let _ = expand(&words.join(" "), &root());
    }
}

#[test]
fn a_reason_quotes_no_more_than_a_line_of_the_text() {
    let long = "ä".repeat(20_000);
    for text in
        [format!("{{{{{long}}}}}"), format!("{{{{${long}}}}}"), "{{1".repeat(9_000), format!("{{{{.Name.{long}}}}}")]
    {
        let why = expand(&text, &root()).unwrap_err();
        assert!(why.chars().count() <= 503, "{} bytes", why.len());
    }
    let why = expand(&format!("{{{{{long}}}}}"), &root()).unwrap_err();
    assert!(why.starts_with("template line 1: ") && why.ends_with("..."), "{why}");
}
