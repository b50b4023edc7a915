//! The tree of a pipeline file to its types, with a sentence and a place for everything that does not fit.
//!
//! Serde stops at the first error. To find them all, a value that does not fit is noted and the whole
//! thing is tried again as if that value were not there; the file is small.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::finding::{Mark, hint, list};
use super::tree::{Fault, Node, Scalar, Value, Written};

/// Builds a `T`, or says all that does not fit.
pub fn build<T: DeserializeOwned>(root: &Node) -> Result<T, Vec<Fault>> {
    let notes = Notes::default();
    loop {
        let known = notes.left_out.borrow().len();
        let built = T::deserialize(At { node: root, path: String::new(), notes: &notes, is_secret: false });
        let faults = || notes.faults.borrow().iter().cloned().collect::<Vec<_>>();
        match built {
            Ok(value) if notes.faults.borrow().is_empty() => return Ok(value),
            Ok(_) => return Err(faults()),
            Err(problem) => {
                notes.note(problem, root, "");
                // Nothing new was left out, so another try would end in the same place.
                if notes.left_out.borrow().len() == known {
                    return Err(faults());
                }
            }
        }
    }
}

/// What has been found so far.
#[derive(Default)]
struct Notes {
    faults: RefCell<BTreeSet<Fault>>,
    /// Keys (and indexes) of nodes that do not fit: treated as absent.
    left_out: RefCell<HashSet<(usize, String)>>,
}

impl Notes {
    fn is_left_out(&self, node: &Node, key: &str) -> bool {
        self.left_out.borrow().contains(&(node.id, key.to_owned()))
    }

    fn leave_out(&self, node: &Node, key: &str) {
        self.left_out.borrow_mut().insert((node.id, key.to_owned()));
    }

    fn add(&self, mark: Mark, sentence: String) {
        self.faults.borrow_mut().insert((mark, sentence));
    }

    /// Turns a problem with the value `node` at `path` into a sentence, once.
    fn note(&self, problem: Problem, node: &Node, path: &str) {
        let what = if path.is_empty() { "a pipeline file".to_owned() } else { format!("`{path}`") };
        let (expected, actual) = match problem {
            Problem::Noted | Problem::Unusable => return,
            Problem::At(mark, sentence) => return self.add(mark, sentence),
            Problem::Missing(key) => {
                // A key that is there but does not fit has its own sentence.
                if !self.is_left_out(node, key) {
                    let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                    self.add(node.mark, format!("missing key `{key}`{place}"));
                    self.leave_out(node, key);
                }
                return;
            }
            Problem::Text(sentence) => return self.add(node.mark, format!("{what}: {sentence}")),
            Problem::Mismatch { expected, actual } => (expected, actual),
        };
        let sentence = match (&node.value, actual) {
            (Value::Scalar(Scalar { written: Written::Interpolated(raw), .. }), _) => {
                format!("{what} must be {expected}, but what `{raw}` stands for is not")
            }
            (_, Some(actual)) => format!("{what} must be {expected}, but is {actual}"),
            (_, None) => format!("{what} must be {expected}, but is {}", kind(node)),
        };
        self.add(node.mark, sentence);
    }
}

/// What a node is, for a message.
fn kind(node: &Node) -> String {
    match &node.value {
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a mapping".into(),
        Value::Scalar(scalar) => match typed(scalar) {
            Typed::Null => "empty".into(),
            Typed::Text => format!("the text `{}`", shorten(&scalar.text)),
            Typed::Boolean(value) => format!("the boolean {value}"),
            Typed::Unsigned(_) | Typed::Integer(_) | Typed::Float(_) => {
                format!("the number {}", shorten(&scalar.text))
            }
        },
    }
}

/// What a node is, for a message that must not show it.
fn kind_alone(node: &Node) -> &'static str {
    match &node.value {
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
        Value::Scalar(scalar) => match typed(scalar) {
            Typed::Null => "empty",
            Typed::Text => "a text",
            Typed::Boolean(_) => "a boolean",
            Typed::Unsigned(_) | Typed::Integer(_) | Typed::Float(_) => "a number",
        },
    }
}

/// As much of a text as a message needs.
pub fn shorten(text: &str) -> String {
    const SHOWN_CHARACTERS: usize = 60;
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Why a value does not fit.
#[derive(Debug)]
enum Problem {
    /// The sentence is in the notes already.
    Noted,
    /// What it needs has been noted and left out.
    Unusable,
    /// A sentence with its place.
    At(Mark, String),
    /// A key is missing in the mapping.
    Missing(&'static str),
    /// A sentence about the value.
    Text(String),
    /// The value is something else.
    Mismatch { expected: String, actual: Option<String> },
}

impl Problem {
    /// The problem without what the file has for `node`.
    fn hide(self, node: &Node) -> Problem {
        match self {
            Problem::Mismatch { expected, actual: None } => {
                Problem::Mismatch { expected, actual: Some(kind_alone(node).into()) }
            }
            other => other,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(sentence: T) -> Problem {
        Problem::Text(sentence.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Problem {
        Problem::Mismatch { expected: in_words(expected), actual: None }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Problem {
        Problem::Mismatch { expected: in_words(expected), actual: None }
    }

    fn missing_field(field: &'static str) -> Problem {
        Problem::Missing(field)
    }
}

/// What serde calls a type, in the words of somebody who writes YAML.
fn in_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a boolean" => "`true` or `false`".into(),
        "usize" | "u64" | "u32" => "a whole number".into(),
        "i64" => "a whole number".into(),
        "f64" => "a number".into(),
        "a string" | "a borrowed string" => "a text".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        other if other.starts_with("struct ") => "a mapping".into(),
        _ => text,
    }
}

/// What a scalar is by the rules of YAML 1.2.
#[derive(Debug, PartialEq)]
enum Typed {
    Null,
    Boolean(bool),
    Unsigned(u64),
    Integer(i64),
    Float(f64),
    Text,
}

fn typed(scalar: &Scalar) -> Typed {
    match scalar.written {
        Written::Plain => typed_plain(&scalar.text),
        Written::Quoted | Written::Interpolated(_) => Typed::Text,
    }
}

fn typed_plain(text: &str) -> Typed {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Typed::Null,
        "true" | "True" | "TRUE" => return Typed::Boolean(true),
        "false" | "False" | "FALSE" => return Typed::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return Typed::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Typed::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Typed::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let radix = |prefix: &str, radix| {
        text.strip_prefix(prefix)
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u64::from_str_radix(digits, radix).ok())
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| text.parse().ok()) {
        return Typed::Unsigned(number);
    }
    if let Ok(number) = text.parse() {
        return Typed::Integer(number);
    }
    // Rust also reads `inf`, `nan` and `infinity`, which are texts in YAML.
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.contains(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    match text.parse() {
        Ok(number) if numeric => Typed::Float(number),
        _ => Typed::Text,
    }
}

/// Types that are a secret or hold one. What a file has in their place may be the secret itself: `password: 12345`,
/// or `sasl: user:password`.
const SECRETS: [&str; 8] =
    ["ClickhouseSink", "KafkaSink", "KafkaSource", "Options", "Sasl", "Secret", "TimescaleSink", "Tls"];

/// A node, its path and what was noted: a deserializer.
struct At<'a> {
    node: &'a Node,
    path: String,
    notes: &'a Notes,
    /// Its text must not be shown.
    is_secret: bool,
}

impl<'a> At<'a> {
    fn mismatch<'de, V: Visitor<'de>, T>(visitor: &V) -> Result<T, Problem> {
        Err(Problem::Mismatch { expected: in_words(visitor), actual: None })
    }

    fn is_empty(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if typed(scalar) == Typed::Null)
    }

    fn child(&self, node: &'a Node, step: &str) -> At<'a> {
        let path = match &self.node.value {
            Value::List(_) => format!("{}[{step}]", self.path),
            _ if self.path.is_empty() => step.to_owned(),
            _ => format!("{}.{step}", self.path),
        };
        At { node, path, notes: self.notes, is_secret: self.is_secret }
    }

    /// What it is, for a message.
    fn kind(&self) -> String {
        if self.is_secret { kind_alone(self.node).into() } else { kind(self.node) }
    }

    /// Deserializes a child; a problem is noted and the child left out of the next try.
    fn value<'de, S: DeserializeSeed<'de>>(
        &self,
        seed: S,
        node: &Node,
        step: &str,
    ) -> Result<S::Value, Problem> {
        let child = self.child(node, step);
        let path = child.path.clone();
        let at = At { node, path: child.path, notes: self.notes, is_secret: self.is_secret };
        seed.deserialize(at).map_err(|problem| {
            let problem = if self.is_secret { problem.hide(node) } else { problem };
            // What a deeper node has noted is left out there; this one may be usable without it.
            if !matches!(problem, Problem::Noted) {
                self.notes.note(problem, node, &path);
                self.notes.leave_out(self.node, step);
            }
            Problem::Noted
        })
    }

    /// Notes the keys that a mapping must not have.
    fn check_keys(&self, known: &[&'static str]) {
        let Value::Map(entries) = &self.node.value else { return };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let absent: Vec<&str> =
                known.iter().copied().filter(|known| self.node.get(known).is_none()).collect();
            let near = super::finding::nearest(&key.name, absent.iter().copied());
            if let Some(meant) = near {
                self.notes.leave_out(self.node, meant);
            }
            let hint = match near {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => hint(&key.name, known),
            };
            self.notes.add(key.mark, format!("unknown key `{}`{place}; {hint}", shorten(&key.name)));
        }
    }

    fn map<'de, V: Visitor<'de>>(
        &self,
        visitor: V,
        known: Option<&[&'static str]>,
    ) -> Result<V::Value, Problem> {
        let entries: &[_] = match &self.node.value {
            Value::Map(entries) => entries,
            _ if self.is_empty() => &[],
            _ => return At::mismatch(&visitor),
        };
        let entries = entries
            .iter()
            .filter(|(key, _)| known.is_none_or(|known| known.contains(&key.name.as_str())))
            .filter(|(key, _)| !self.notes.is_left_out(self.node, &key.name))
            .map(|(key, node)| (key.name.as_str(), &**node));
        visitor.visit_map(Entries { at: self, entries, next: None })
    }

    fn number<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Problem> {
        let Value::Scalar(scalar) = &self.node.value else { return At::mismatch(&visitor) };
        let typed = match scalar.written {
            Written::Plain | Written::Interpolated(_) => typed_plain(&scalar.text),
            Written::Quoted => Typed::Text,
        };
        match typed {
            Typed::Boolean(value) => visitor.visit_bool(value),
            Typed::Unsigned(value) => visitor.visit_u64(value),
            Typed::Integer(value) => visitor.visit_i64(value),
            Typed::Float(value) => visitor.visit_f64(value),
            Typed::Null | Typed::Text => At::mismatch(&visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            self.number(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for At<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let scalar = match &self.node.value {
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.map(visitor, None),
            Value::Scalar(scalar) => scalar,
        };
        let expected = in_words(&visitor);
        let result = match typed(scalar) {
            Typed::Null => visitor.visit_unit(),
            Typed::Boolean(value) => visitor.visit_bool(value),
            Typed::Unsigned(value) => visitor.visit_u64(value),
            Typed::Integer(value) => visitor.visit_i64(value),
            Typed::Float(value) => visitor.visit_f64(value),
            Typed::Text => visitor.visit_str(&scalar.text),
        };
        // A visitor's own sentence may show the text, which must stay hidden.
        match (result, &scalar.written) {
            (Err(Problem::Text(_)), written)
                if self.is_secret || matches!(written, Written::Interpolated(_)) =>
            {
                Err(Problem::Mismatch { expected, actual: None })
            }
            (result, _) => result,
        }
    }

    numbers! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar(scalar) if typed(scalar) == Typed::Text => visitor.visit_str(&scalar.text),
            Value::Scalar(scalar) if typed(scalar) != Typed::Null => Err(Problem::Mismatch {
                expected: in_words(&visitor),
                actual: Some(format!("{}; put it in quotes", self.kind())),
            }),
            _ => At::mismatch(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.is_empty() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if !SECRETS.contains(&name) {
            return visitor.visit_newtype_struct(self);
        }
        let node = self.node;
        self.is_secret = true;
        visitor.visit_newtype_struct(self).map_err(|problem| problem.hide(node))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let Value::List(items) = &self.node.value else { return At::mismatch(&visitor) };
        let items = items
            .iter()
            .enumerate()
            .map(|(index, node)| (index.to_string(), &**node))
            .filter(|(index, _)| !self.notes.is_left_out(self.node, index));
        visitor.visit_seq(Items { at: &self, items })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.map(visitor, None)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.check_keys(fields);
        let result = self.map(visitor, Some(fields));
        // What is inside a mapping has its own types.
        if SECRETS.contains(&name) { result.map_err(|problem| problem.hide(self.node)) } else { result }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let one_of = || format!("one of {}", list(variants));
        let entries = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Scalar(scalar) if typed(scalar) == Typed::Text => {
                let Some(name) = variants.iter().find(|name| **name == scalar.text) else {
                    let hint = hint(&scalar.text, variants);
                    return Err(match scalar.written {
                        Written::Interpolated(_) => Problem::Mismatch { expected: one_of(), actual: None },
                        _ => Problem::Text(format!("`{}` is unknown; {hint}", shorten(&scalar.text))),
                    });
                };
                return visitor.visit_enum(Choice { name, at: &self, content: None });
            }
            _ => return Err(Problem::Mismatch { expected: one_of(), actual: None }),
        };
        let unknown = entries.iter().find(|(key, _)| !variants.contains(&key.name.as_str()));
        if let Some((key, _)) = unknown {
            let hint = hint(&key.name, variants);
            let sentence = format!("unknown key `{}` in `{}`; {hint}", shorten(&key.name), self.path);
            return Err(Problem::At(key.mark, sentence));
        }
        match &entries[..] {
            [(key, _)] if self.notes.is_left_out(self.node, &key.name) => Err(Problem::Unusable),
            [(key, content)] => {
                visitor.visit_enum(Choice { name: &key.name, at: &self, content: Some(content) })
            }
            [] => Err(Problem::Text(format!("it needs one of the keys {}", list(variants)))),
            [(first, _), (second, _), ..] => Err(Problem::At(
                second.mark,
                format!(
                    "`{}` has both `{}` and `{}`; it can be one of them only",
                    self.path, first.name, second.name
                ),
            )),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'s, 'a, I> {
    at: &'s At<'a>,
    entries: I,
    next: Option<(&'a str, &'a Node)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a str, &'a Node)>> MapAccess<'de> for Entries<'_, 'a, I> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        self.next = self.entries.next();
        self.next.map(|(key, _)| seed.deserialize(StrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        match self.next.take() {
            Some((key, node)) => self.at.value(seed, node, key),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

struct Items<'s, 'a, I> {
    at: &'s At<'a>,
    items: I,
}

impl<'de, 'a, I: Iterator<Item = (String, &'a Node)>> SeqAccess<'de> for Items<'_, 'a, I> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        self.items.next().map(|(index, node)| self.at.value(seed, node, &index)).transpose()
    }
}

/// The chosen variant of an enum: `name: content`, or a bare `name`.
struct Choice<'s, 'a> {
    name: &'s str,
    at: &'s At<'a>,
    content: Option<&'a Node>,
}

impl<'de> EnumAccess<'de> for Choice<'_, '_> {
    type Error = Problem;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Problem> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_, '_> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(Problem::Mismatch { expected: format!("just `{}`", self.name), actual: None }),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        match self.content {
            Some(node) => self.at.value(seed, node, self.name),
            // A bare name stands for the variant with nothing set.
            None => {
                let node = self.at.node.nothing_inside();
                self.at.value(seed, &node, self.name)
            }
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        At::mismatch(&visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        At::mismatch(&visitor)
    }
}
