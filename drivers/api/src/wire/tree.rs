//! JSON documents of which our types know a part: the rest passes through unchanged.

use serde_json::Value;

/// Adds to `ours` what `theirs` has and `known`, the part of `theirs` that our types took in, has not.
/// Elements of lists are the same ones only where neither side has more of them.
pub(crate) fn keep_unknown(ours: &mut Value, theirs: &Value, known: &Value) {
    match (ours, theirs, known) {
        (Value::Object(ours), Value::Object(theirs), Value::Object(known)) => {
            for (key, value) in theirs {
                match (ours.get_mut(key), known.get(key)) {
                    (Some(ours), Some(known)) => keep_unknown(ours, value, known),
                    (None, None) => drop(ours.insert(key.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs), Value::Array(known)) if ours.len() == theirs.len() => {
            for ((ours, theirs), known) in ours.iter_mut().zip(theirs).zip(known) {
                keep_unknown(ours, theirs, known);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(mut ours: Value, theirs: Value, known: Value) -> Value {
        keep_unknown(&mut ours, &theirs, &known);
        ours
    }

    #[test]
    fn unknown_keys_stay_at_every_depth() {
        let theirs = json!({"a": 1, "new": [1], "config": {"b": 2, "newer": {"c": null}}});
        let known = json!({"a": 1, "config": {"b": 2}});
        let ours = json!({"a": 5, "config": {"b": 2, "d": 3}});
        let wanted = json!({"a": 5, "config": {"b": 2, "d": 3, "newer": {"c": null}}, "new": [1]});
        assert_eq!(kept(ours, theirs, known), wanted);
    }

    #[test]
    fn a_known_key_that_was_taken_out_stays_out() {
        assert_eq!(kept(json!({}), json!({"a": 1}), json!({"a": 1})), json!({}));
    }

    #[test]
    fn elements_of_a_list_are_matched_only_where_there_are_as_many() {
        let theirs = json!([{"x": 1, "new": 2}]);
        let known = json!([{"x": 1}]);
        assert_eq!(kept(json!([{"x": 3}]), theirs.clone(), known.clone()), json!([{"x": 3, "new": 2}]));
        assert_eq!(kept(json!([{"x": 3}, {"x": 4}]), theirs, known), json!([{"x": 3}, {"x": 4}]));
    }
}
