use proptest::prelude::*;

use super::*;

static ANY: Shape = Shape::Interface(&[
    ("string", &Shape::Text),
    ("int", &Shape::Int),
    ("bool", &Shape::Bool),
    ("[]string", &LIST),
    ("*rpcdriver.RPCFlags", &FLAGS),
]);
static LIST: Shape = Shape::List(&Shape::Text);
static MAP: Shape = Shape::Map("map[string]interface {}", &Shape::Text, &ANY);
static FLAGS: Shape = Shape::Struct("RPCFlags", &[("Values", &MAP)]);
static REQUEST: Shape = Shape::Struct("Request", &[("ServiceMethod", &Shape::Text), ("Seq", &Shape::Uint)]);
static EMPTY: Shape = Shape::Struct("", &[]);

/// Hex digits and quoted text, as the reference writes bytes.
pub fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        bytes.extend(digits.chunks(2).map(pair));
    }
    bytes
}

/// All values that messages with their lengths hold.
fn decoded(decoder: &mut Decoder, mut bytes: &[u8]) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let Prefix::Whole { width, length } = prefix(bytes)? else { return Err(Error::Corrupt("cut off")) };
        let end = width + usize::try_from(length).unwrap();
        values.extend(decoder.push(bytes.get(width..end).ok_or(Error::Corrupt("cut off"))?)?);
        bytes = &bytes[end..];
    }
    Ok(values)
}

fn structure(fields: &[(&str, Value)]) -> Value {
    Value::Struct(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn interface(name: &str, value: Value) -> Value {
    Value::Interface(Some((name.into(), Box::new(value))))
}

fn flags(name: &str, value: Value) -> Value {
    let values = Value::Map(vec![(text(name), value)]);
    interface("*rpcdriver.RPCFlags", structure(&[("Values", values)]))
}

const GET_VERSION: &str = r#"2f ff81 03 01 01 07 "Request" 01 ff82 00 01 02 01 0d "ServiceMethod" 01 0c 00 01 03 "Seq"
    01 06 00 00 00 1f ff82 01 1a "RPCServerDriver.GetVersion" 00 0a ff83 03 01 02 ff84 00 00 00 03 ff84 00"#;

#[test]
fn golden_a_request_is_go_s_both_ways() {
    let request = structure(&[("ServiceMethod", text("RPCServerDriver.GetVersion"))]);
    let values = decoded(&mut Decoder::default(), &hex(GET_VERSION)).unwrap();
    assert_eq!(values, [request.clone(), Value::Struct(vec![])]);
    let mut encoder = Encoder::default();
    let mut bytes = encoder.encode(&REQUEST, &request).unwrap();
    bytes.extend(encoder.encode(&EMPTY, &Value::Struct(vec![])).unwrap());
    assert_eq!(bytes, hex(GET_VERSION));
    assert_eq!(encoder.encode(&EMPTY, &Value::Struct(vec![])).unwrap(), hex("03 ff84 00"), "defined once");
}

#[test]
fn golden_values_without_types_are_go_s_both_ways() {
    let cases: [(&str, &'static Shape, Value); 6] = [
        ("05 0a 00 02 7b 7d", &Shape::Bytes, Value::Bytes(b"{}".into())),
        ("03 04 00 02", &Shape::Int, Value::Int(1)),
        ("03 04 00 00", &Shape::Int, Value::Int(0)),
        ("03 04 00 08", &Shape::Int, Value::Int(4)),
        (r#"0a 0c 00 07 "default""#, &Shape::Text, text("default")),
        ("03 0c 00 00", &Shape::Text, text("")),
    ];
    for (bytes, shape, value) in cases {
        assert_eq!(decoded(&mut Decoder::default(), &hex(bytes)).unwrap(), std::slice::from_ref(&value));
        assert_eq!(Encoder::default().encode(shape, &value).unwrap(), hex(bytes));
    }
}

#[test]
fn golden_flags_that_go_splits_over_messages_are_read() {
    let mut decoder = Decoder::default();
    let first = r#"38 10 00 13 "*rpcdriver.RPCFlags" ff85 03 01 01 08 "RPCFlags" 01 ff86 00 01 01 01 06 "Values" 01 ff88
        00 00 00 27 ff87 04 01 01 17 "map[string]interface {}" 01 ff88 00 01 0c 01 10 00 00
        14 ff86 11 01 01 01 "s" 06 "string" 0c 03 00 01 "v" 00"#;
    let later = [
        (
            r#"26 10 00 13 "*rpcdriver.RPCFlags" ff86 0d 01 01 01 "i" 03 "int" 04 02 00 0a 00"#,
            interface("int", Value::Int(5)),
        ),
        (
            r#"27 10 00 13 "*rpcdriver.RPCFlags" ff86 0e 01 01 01 "b" 04 "bool" 02 02 00 01 00"#,
            interface("bool", Value::Bool(true)),
        ),
        (r#"1f 10 00 13 "*rpcdriver.RPCFlags" ff86 06 01 01 01 "n" 00 00"#, Value::Interface(None)),
        (
            r#"32 10 00 13 "*rpcdriver.RPCFlags" ff86 19 01 01 01 "l" 08 "[]string" ff89 02 01 02 ff8a 00 01 0c 00 00
                0a ff8a 06 00 02 01 "x" 01 "y" 00"#,
            interface("[]string", Value::List(vec![text("x"), text("y")])),
        ),
    ];
    assert_eq!(decoded(&mut decoder, &hex(first)).unwrap(), [flags("s", interface("string", text("v")))]);
    for ((bytes, value), name) in later.into_iter().zip(["i", "b", "n", "l"]) {
        assert_eq!(decoded(&mut decoder, &hex(bytes)).unwrap(), [flags(name, value)]);
    }
}

#[test]
fn golden_an_error_and_a_list_of_flags_are_read() {
    let mut decoder = Decoder::default();
    let error = r#"3a ff8b 03 01 01 08 "Response" 01 ff8c 00 01 03 01 0d "ServiceMethod" 01 0c 00 01 03 "Seq" 01 06 00
        01 05 "Error" 01 0c 00 00 00 22 ff8c 01 15 "RPCServerDriver.GetIP" 01 05 01 04 "boom" 00
        0a ff83 03 01 02 ff84 00 00 00 03 ff84 00"#;
    let head = [("ServiceMethod", text("RPCServerDriver.GetIP")), ("Seq", Value::Uint(5)), ("Error", text("boom"))];
    assert_eq!(decoded(&mut decoder, &hex(error)).unwrap(), [structure(&head), Value::Struct(vec![])]);
    let list = r#"0c ff8d 02 01 02 ff8e 00 01 10 00 00 58 ff8e 00 01 13 "*mcnflag.StringFlag" ff8f 03 01 01 0a
        "StringFlag" 01 ff90 00 01 04 01 04 "Name" 01 0c 00 01 05 "Usage" 01 0c 00 01 06 "EnvVar" 01 0c 00 01 05 "Value"
        01 0c 00 00 00 10 ff90 0d 01 01 "n" 01 01 "u" 01 01 "E" 01 01 "v" 00 04 ff8e 00 00"#;
    let flag = structure(&[("Name", text("n")), ("Usage", text("u")), ("EnvVar", text("E")), ("Value", text("v"))]);
    let flags = Value::List(vec![interface("*mcnflag.StringFlag", flag)]);
    assert_eq!(decoded(&mut decoder, &hex(list)).unwrap(), [flags, Value::List(vec![])]);
}

/// A definition of a struct with two fields of another type.
fn pair(id: i64, of: i64) -> Vec<u8> {
    let mut body = Vec::new();
    wire::put_int(&mut body, -id);
    body.extend(hex("03 01 02"));
    wire::put_int(&mut body, id);
    body.extend(hex("00 01 02"));
    for name in ["a", "b"] {
        body.push(1);
        wire::put_bytes(&mut body, name.as_bytes());
        body.push(1);
        wire::put_int(&mut body, of);
        body.push(0);
    }
    body.extend([0, 0]);
    body
}

#[test]
fn types_that_double_at_each_step_cost_nothing_but_their_own_bytes() {
    let mut decoder = Decoder::default();
    for id in 65..165 {
        assert_eq!(decoder.push(&pair(id, id + 1)).unwrap(), None);
    }
    // An interface with a value of the first of them, all zero.
    let value = decoder.push(&hex(r#"10 00 01 "x" ff82 01 00"#)).unwrap();
    assert_eq!(value, Some(interface("x", Value::Struct(vec![]))));
}

#[test]
fn bounds_hold_what_a_peer_can_make_of_our_memory() {
    let many = (65..).map(|id| Decoder::default().push(&pair(id, 6)).map(|_| id)).take(3).collect::<Result<Vec<_>>>();
    assert!(many.is_ok(), "a few types are no excess");
    let mut decoder = Decoder::default();
    let fault = (65..2000).find_map(|id| decoder.push(&pair(id, 6)).err());
    assert_eq!(fault, Some(Error::Excess("types")));
    let mut decoder = Decoder::default();
    assert_eq!(decoder.push(&vec![0; MESSAGE_MAX + 1]), Err(Error::Excess("bytes")));
    // A list of itself, deeper and deeper.
    let mut decoder = Decoder::default();
    assert_eq!(decoder.push(&hex("ff81 02 01 02 ff82 00 01 ff82 00 00")).unwrap(), None);
    let mut deep = hex("ff82 00");
    deep.extend([1; 1000]);
    assert_eq!(decoder.push(&deep), Err(Error::Excess("values")));
    // A list of booleans as long as a message can be.
    let mut decoder = Decoder::default();
    assert_eq!(decoder.push(&hex("ff81 02 01 02 ff82 00 01 02 00 00")).unwrap(), None);
    let mut wide = hex("ff82 00 fd 100000");
    wide.extend(vec![1; 0x10_0000]);
    assert_eq!(decoder.push(&wide), Err(Error::Excess("values")));
    // A value that never becomes whole.
    let mut decoder = Decoder::default();
    let mut id = 64;
    let fault = std::iter::from_fn(|| {
        id += 1;
        let head = if id == 65 { hex(r#"10 00 01 "x""#) } else { vec![] };
        Some(decoder.push(&[head, pair(id, 6)].concat()).err())
    });
    assert_eq!(fault.take(1000).flatten().next(), Some(Error::Excess("bytes")));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(|text| interface("string", Value::Text(text))),
        any::<i64>().prop_map(|number| interface("int", Value::Int(number))),
        any::<bool>().prop_map(|flag| interface("bool", Value::Bool(flag))),
        prop::collection::vec(any::<String>(), 0..4)
            .prop_map(|list| interface("[]string", Value::List(list.into_iter().map(Value::Text).collect()))),
        Just(Value::Interface(None)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec((any::<String>(), any_value()), 1..6), seq in 1u64..) {
        let pairs = values.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
        let flags = interface("*rpcdriver.RPCFlags", structure(&[("Values", Value::Map(pairs))]));
        let request = structure(&[("ServiceMethod", text("X.Y")), ("Seq", Value::Uint(seq))]);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for _ in 0..2 {
            let mut bytes = encoder.encode(&REQUEST, &request).unwrap();
            bytes.extend(encoder.encode(&ANY, &flags).unwrap());
            prop_assert_eq!(decoded(&mut decoder, &bytes).unwrap(), [request.clone(), flags.clone()]);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..220, byte: u8) {
        // An error or values, never a panic.
        let _ = decoded(&mut Decoder::default(), &noise);
        let mut bent = hex(GET_VERSION);
        let at = at % bent.len();
        bent[at] = byte;
        let _ = decoded(&mut Decoder::default(), &bent);
    }
}
