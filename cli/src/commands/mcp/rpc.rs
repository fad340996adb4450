//! JSON-RPC 2.0: what a message asks, and the form of answers.

use serde_json::{Value, json};

/// It is no JSON.
pub(super) const NOT_JSON: i32 = -32700;
/// It is no message.
pub(super) const INVALID: i32 = -32600;
/// Nobody knows the method.
pub(super) const NO_METHOD: i32 = -32601;
/// The arguments are not those of the method.
pub(super) const WRONG_PARAMS: i32 = -32602;

/// A message that wants an answer.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub id: Value,
    pub method: String,
    pub params: Value,
}

/// What a message asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Request(Request),
    /// That this request is no longer wanted.
    Cancelled(Value),
    /// Nothing: a notification, or an answer.
    Nothing,
    /// It is none; this is the answer.
    Wrong(Value),
}

/// Reads a message.
pub(super) fn read(message: Value) -> Asked {
    let Value::Object(mut message) = message else {
        return Asked::Wrong(failed(&Value::Null, INVALID, "a message is an object"));
    };
    let id = message.remove("id");
    let is_id = matches!(id, Some(Value::String(_) | Value::Number(_)));
    let known = id.clone().filter(|_| is_id).unwrap_or_default();
    let wrong = |what| Asked::Wrong(failed(&known, INVALID, what));
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return wrong("`jsonrpc` is not 2.0");
    }
    let params = message.remove("params").unwrap_or_default();
    match (message.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) if is_id => {
            Asked::Request(Request { id, method, params })
        }
        (Some(Value::String(method)), None) => match params.get("requestId") {
            Some(id) if method == "notifications/cancelled" => Asked::Cancelled(id.clone()),
            _ => Asked::Nothing,
        },
        (Some(Value::String(_)), Some(_)) => wrong("an id is a text or a number"),
        (None, Some(_)) if message.contains_key("result") || message.contains_key("error") => {
            Asked::Nothing
        }
        _ => wrong("a message has a method"),
    }
}

/// The answer of one that went well.
pub(super) fn done(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// The answer of one that did not.
pub(super) fn failed(id: &Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wants_an_answer_is_told_from_what_does_not() {
        let of = |text: &str| read(serde_json::from_str(text).unwrap());
        for id in ["1", "\"a\"", "0"] {
            let asked = of(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}"));
            assert!(matches!(asked, Asked::Request(_)), "{asked:?}");
        }
        for nothing in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
        ] {
            assert_eq!(of(nothing), Asked::Nothing);
        }
        let cancelled =
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
        assert_eq!(of(cancelled), Asked::Cancelled(7.into()));
        for (wrong, id) in [
            ("1", Value::Null),
            ("{}", Value::Null),
            (r#"{"jsonrpc":"1.0","id":3,"method":"ping"}"#, 3.into()),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, Value::Null),
            (r#"{"jsonrpc":"2.0","id":[],"method":"ping"}"#, Value::Null),
            (r#"{"jsonrpc":"2.0","id":4,"method":5}"#, 4.into()),
            (r#"{"jsonrpc":"2.0","id":4}"#, 4.into()),
        ] {
            let Asked::Wrong(answer) = of(wrong) else { panic!("{wrong}") };
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &INVALID.into()));
        }
    }
}
