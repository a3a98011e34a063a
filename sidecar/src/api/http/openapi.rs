//! The description of the HTTP calls, as OpenAPI 3.1.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// Kept by hand, so that it says what people need; the tests below see to it that nothing is missing.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /v1/openapi.json`
pub(super) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use serde_json::{Map, Value};
    use wherry_proto::FILE_DESCRIPTOR_SET;

    use super::*;
    use crate::api::http::table;
    use crate::backend::memory::MemoryCluster;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("json")
    }

    fn map(value: &Value) -> &Map<String, Value> {
        value.as_object().expect("an object")
    }

    fn contract() -> FileDescriptorSet {
        FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors")
    }

    /// Every object in the document.
    fn objects<'a>(value: &'a Value, found: &mut Vec<&'a Map<String, Value>>) {
        match value {
            Value::Object(fields) => {
                found.push(fields);
                fields.values().for_each(|value| objects(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| objects(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = document();
        let described: BTreeSet<(String, String)> = map(&document["paths"])
            .iter()
            .flat_map(|(path, item)| map(item).keys().map(|method| (method.clone(), path.clone())))
            .filter(|(method, _)| method != "parameters")
            .collect();
        let served = table::<MemoryCluster>().into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned()));
        assert_eq!(described, served.collect());
    }

    #[test]
    fn every_call_of_the_contract_has_its_place() {
        let document = document();
        let mut named: BTreeSet<String> = map(&document["x-wherry-grpc-only"]).keys().cloned().collect();
        let mut found = Vec::new();
        objects(&document, &mut found);
        let calls = found.iter().filter_map(|fields| fields.get("x-wherry-rpc")).flat_map(|calls| calls.as_array());
        named.extend(calls.flatten().map(|call| call.as_str().expect("a name").to_owned()));
        let services = contract().file.into_iter().flat_map(|file| file.service);
        let calls = services.flat_map(|service| {
            let name = service.name().to_owned();
            service.method.into_iter().map(move |method| format!("{name}.{}", method.name()))
        });
        assert_eq!(named, calls.collect());
    }

    #[test]
    fn every_field_of_the_contract_is_in_its_schema() {
        let messages: BTreeMap<String, DescriptorProto> = contract()
            .file
            .into_iter()
            .flat_map(|file| {
                let package = file.package().to_owned();
                file.message_type.into_iter().map(move |message| (format!("{package}.{}", message.name()), message))
            })
            .collect();
        let document = document();
        let (mut found, mut compared) = (Vec::new(), 0);
        objects(&document, &mut found);
        for schema in found {
            let Some(name) = schema.get("x-wherry-proto").and_then(Value::as_str) else { continue };
            let message = messages.get(name).unwrap_or_else(|| panic!("there is no message {name}"));
            let elsewhere = schema.get("x-wherry-not-in-json").map(map);
            for field in &message.field {
                let here = map(&schema["properties"]).contains_key(field.name());
                let not_here = elsewhere.is_some_and(|fields| fields.contains_key(field.name()));
                assert!(here != not_here, "{name}.{}", field.name());
            }
            compared += 1;
        }
        assert!(compared > 20, "{compared}");
    }

    #[test]
    fn references_lead_somewhere() {
        let document = document();
        let mut found = Vec::new();
        objects(&document, &mut found);
        let mut used = BTreeSet::new();
        for reference in found.iter().filter_map(|fields| fields.get("$ref")) {
            let reference = reference.as_str().expect("text");
            let pointer = reference.strip_prefix('#').expect("local");
            assert!(document.pointer(pointer).is_some(), "{reference}");
            used.insert(pointer.rsplit('/').next().expect("a name").to_owned());
        }
        let defined: BTreeSet<String> = map(&document["components"]["schemas"]).keys().cloned().collect();
        assert_eq!(used, defined, "every schema is used");
    }
}
