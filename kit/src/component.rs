//! Core modules to components, and the fixtures inside of components.

use serde_json::{Map, Value};
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, DecodedWasm};

use crate::{Error, Result};

/// The custom section of a component that has its fixtures: a JSON object of them by their names.
pub const FIXTURES_SECTION: &str = "tidegate:fixtures";

/// The largest fixtures of a component. Hosts read them at each deploy, and test data for more belongs into files.
pub const FIXTURES_BYTES_MAX: usize = 1 << 20;

/// The component of a core module.
///
/// # Errors
/// [`Error::NoComponent`] when the module does not fit the contract that it says it is for.
pub fn from_core(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| Error::NoComponent(format!("{error:#}")))
}

/// Whether a component exports anything; one without `export!` does not.
pub fn exports_something(component: &[u8]) -> bool {
    match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => !resolve.worlds[world].exports.is_empty(),
        _ => false,
    }
}

/// The component with fixtures, by their names, as its last section. Without fixtures it stays as it is.
///
/// # Errors
/// [`Error::FixturesTooLarge`].
pub fn embed(mut component: Vec<u8>, fixtures: &Map<String, Value>) -> Result<Vec<u8>> {
    if fixtures.is_empty() {
        return Ok(component);
    }
    let data = serde_json::to_vec(fixtures).expect("JSON of texts as keys can be written");
    if data.len() > FIXTURES_BYTES_MAX {
        return Err(Error::FixturesTooLarge { bytes: data.len(), max: FIXTURES_BYTES_MAX });
    }
    let section = CustomSection { name: FIXTURES_SECTION.into(), data: data.into() };
    section.append_to_component(&mut component);
    Ok(component)
}

/// The fixtures that [`embed`] has put into a component, the last ones where there are several; None without any.
///
/// # Errors
/// What is wrong with the component or its section.
pub fn embedded(component: &[u8]) -> std::result::Result<Option<Map<String, Value>>, String> {
    let mut data = None;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| format!("it is no component: {error}"))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            // The end of the component itself is below none.
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == FIXTURES_SECTION => {
                data = Some(section.data());
            }
            _ => {}
        }
    }
    let Some(data) = data else { return Ok(None) };
    if data.len() > FIXTURES_BYTES_MAX {
        return Err(format!(
            "`{FIXTURES_SECTION}` has {} bytes, at most {FIXTURES_BYTES_MAX} are read",
            data.len()
        ));
    }
    serde_json::from_slice(data)
        .map(Some)
        .map_err(|error| format!("`{FIXTURES_SECTION}` is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{Component, ModuleSection};

    fn fixtures(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn component(inner: &CustomSection<'_>) -> Vec<u8> {
        let mut module = wasm_encoder::Module::new();
        module.section(inner);
        let mut component = Component::new();
        component.section(&ModuleSection(&module));
        component.finish()
    }

    #[test]
    fn what_is_embedded_is_read_back() {
        let inner = CustomSection { name: FIXTURES_SECTION.into(), data: (&b"{\"inner\":1}"[..]).into() };
        let plain = component(&inner);
        assert_eq!(embedded(&plain), Ok(None), "a section of a module inside is another's");
        let one = fixtures(r#"{ "good": { "rows": [] }, "bad": { "rows": [1.5] } }"#);
        let with = embed(plain.clone(), &one).unwrap();
        assert!(with.starts_with(&plain));
        assert_eq!(embedded(&with), Ok(Some(one)));
        let two = fixtures(r#"{ "later": {} }"#);
        assert_eq!(embedded(&embed(with, &two).unwrap()), Ok(Some(two)));
        assert_eq!(embed(plain.clone(), &Map::new()).unwrap(), plain);
    }

    #[test]
    fn fixtures_have_a_limit() {
        let mut large = Map::new();
        large.insert("large".into(), "x".repeat(FIXTURES_BYTES_MAX).into());
        let error = embed(Vec::new(), &large).unwrap_err().to_string();
        assert!(error.contains("1048588 bytes together, but at most 1048576"), "{error}");
    }

    #[test]
    fn what_is_no_component_is_said() {
        assert!(embedded(b"text").is_err());
        let mut other = component(&CustomSection { name: "x".into(), data: (&b""[..]).into() });
        CustomSection { name: FIXTURES_SECTION.into(), data: (&b"{"[..]).into() }
            .append_to_component(&mut other);
        assert!(embedded(&other).unwrap_err().contains("is not JSON"));
    }
}
