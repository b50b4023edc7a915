//! YAML text to a tree of nodes that know their line and column.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Span};

use super::finding::Mark;
use super::interpolate::{Values, interpolate};

/// What all nodes may weigh with every alias written out. A file of 1 MiB without aliases cannot reach it;
/// a file that multiplies itself with aliases stops here.
const WEIGHT_LIMIT_BYTES: usize = 64 << 20;

/// What a node weighs beside its text.
const NODE_BYTES: usize = 64;

/// The deepest nesting: settings of rules have three or four levels.
const DEPTH_LIMIT: usize = 64;

/// A sentence about a place.
pub type Fault = (Mark, String);

/// A value of the file.
#[derive(Debug)]
pub struct Node {
    /// Tells nodes apart; written-out aliases share it.
    pub id: usize,
    /// Where it starts.
    pub mark: Mark,
    /// What it is.
    pub value: Value,
    weight: usize,
    depth: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Value {
    /// A text, number, boolean or null.
    Scalar(Scalar),
    /// A list.
    List(Vec<Arc<Node>>),
    /// A mapping, in the order of the file; no key twice.
    Map(Vec<(Key, Arc<Node>)>),
}

/// A scalar.
#[derive(Debug)]
pub struct Scalar {
    /// Its text with references replaced.
    pub text: String,
    /// How the file has it.
    pub written: Written,
}

/// How a scalar stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// Without quotes: the text decides about the type.
    Plain,
    /// With quotes or as a block: a text.
    Quoted,
    /// With references, whose values must not be shown: the text before they were replaced.
    Interpolated(String),
}

/// A key of a mapping.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Where it is.
    pub mark: Mark,
}

impl Node {
    /// An empty value in the place of this one, with an id of its own.
    pub fn nothing_inside(&self) -> Node {
        let empty = Scalar { text: String::new(), written: Written::Plain };
        Node {
            id: usize::MAX - self.id,
            mark: self.mark,
            value: Value::Scalar(empty),
            weight: NODE_BYTES,
            depth: 0,
        }
    }

    /// The mapping's value under `key`, or the list's at that index.
    pub fn get(&self, step: &str) -> Option<&Arc<Node>> {
        match &self.value {
            Value::Scalar(_) => None,
            Value::List(items) => items.get(step.parse::<usize>().ok()?),
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == step).map(|(_, node)| node),
        }
    }

    /// Where the value at `path` is, or what comes nearest of what contains it.
    pub fn mark_of(&self, path: &[&str]) -> Mark {
        match path.split_first().and_then(|(step, rest)| Some((self.get(step)?, rest))) {
            Some((node, rest)) => node.mark_of(rest),
            None => self.mark,
        }
    }
}

/// The tree of a document.
pub struct Tree {
    /// Its top.
    pub root: Arc<Node>,
    /// Texts with references: what they became, and what the file has.
    pub secrets: Vec<(String, String)>,
}

/// Parses the one document of `text`. All faults of keys and references are found, of syntax the first.
pub fn parse(text: &str, values: &Values<'_>) -> Result<Tree, Vec<Fault>> {
    let mut builder = Builder::new(values);
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => {
                let at = mark(*error.marker());
                let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
                Err((at, syntax(error.kind(), &error.info(), line)))
            }
        };
        if let Err(fault) = step {
            builder.faults.push(fault);
            return Err(builder.faults);
        }
    }
    match builder.root {
        _ if !builder.faults.is_empty() => Err(builder.faults),
        Some(root) => Ok(Tree { root, secrets: builder.secrets }),
        None => Err(vec![(
            Mark { line: 1, column: 1 },
            "the file is empty; a pipeline needs `name`, `source` and `sink`".into(),
        )]),
    }
}

fn mark(marker: Marker) -> Mark {
    Mark { line: marker.line(), column: marker.col() + 1 }
}

/// A sentence about a fault of syntax in `line`.
fn syntax(kind: &ErrorKind, info: &str, line: &str) -> String {
    match kind {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => {
            "a tab cannot indent YAML; use spaces".into()
        }
        ErrorKind::UnknownAnchor => "this alias has no anchor before it".into(),
        _ if line.contains("${") => {
            format!("this is not YAML: {info}; inside `{{ }}` and `[ ]` put `${{…}}` in quotes")
        }
        _ => format!("this is not YAML: {info}"),
    }
}

/// A collection whose end has not come.
struct Open {
    mark: Mark,
    anchor: usize,
    weight: usize,
    depth: usize,
    key: Option<Key>,
    value: Value,
}

struct Builder<'a> {
    values: &'a Values<'a>,
    open: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    root: Option<Arc<Node>>,
    secrets: Vec<(String, String)>,
    faults: Vec<Fault>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(values: &'a Values<'a>) -> Builder<'a> {
        Builder {
            values,
            open: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            secrets: Vec::new(),
            faults: Vec::new(),
            nodes: 0,
        }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let at = mark(span.start);
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                Err((at, "tags (`!…`) are not supported; quote the value if it is a text".into()))
            }
            Event::Scalar(text, style, anchor, None) => self.scalar(&text, style, anchor, at),
            Event::SequenceStart(_, anchor, None) => self.start(Value::List(Vec::new()), anchor, at),
            Event::MappingStart(_, anchor, None) => self.start(Value::Map(Vec::new()), anchor, at),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.place(node, at),
                None => Err((at, "this alias refers to what contains it".into())),
            },
            Event::DocumentStart(..) if self.root.is_some() => {
                Err((at, "a second document starts here; one file holds one pipeline".into()))
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, at: Mark) -> Result<(), Fault> {
        if self.expects_key() {
            return self.key(text, at);
        }
        let scalar = match interpolate(text, self.values) {
            Ok(None) if style == ScalarStyle::Plain => Scalar { text: text.into(), written: Written::Plain },
            Ok(None) => Scalar { text: text.into(), written: Written::Quoted },
            Ok(Some(result)) => {
                self.secrets.push((result.clone(), text.into()));
                Scalar { text: result, written: Written::Interpolated(text.into()) }
            }
            Err(sentence) => {
                self.faults.push((at, sentence));
                Scalar { text: String::new(), written: Written::Quoted }
            }
        };
        let weight = NODE_BYTES + scalar.text.len();
        let node = self.node(at, weight, 0, Value::Scalar(scalar));
        self.finish(node, anchor, at)
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { key: None, value: Value::Map(_), .. }))
    }

    fn key(&mut self, name: &str, at: Mark) -> Result<(), Fault> {
        if name == "<<" {
            return Err((at, "merge keys (`<<`) are not supported; use an alias for the whole value".into()));
        }
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        open.key = Some(Key { name: name.into(), mark: at });
        Ok(())
    }

    fn start(&mut self, value: Value, anchor: usize, at: Mark) -> Result<(), Fault> {
        if self.expects_key() {
            return Err((at, "a key must be a text".into()));
        }
        self.open.push(Open { mark: at, anchor, weight: NODE_BYTES, depth: 1, key: None, value });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let node = self.node(open.mark, open.weight, open.depth, open.value);
        self.finish(node, open.anchor, open.mark)
    }

    fn node(&mut self, mark: Mark, weight: usize, depth: usize, value: Value) -> Arc<Node> {
        self.nodes += 1;
        Arc::new(Node { id: self.nodes, mark, value, weight, depth })
    }

    fn finish(&mut self, node: Arc<Node>, anchor: usize, at: Mark) -> Result<(), Fault> {
        // The parser gives 0 to a node without an anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        self.place(node, at)
    }

    /// Puts a finished node into what contains it.
    fn place(&mut self, node: Arc<Node>, at: Mark) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.weight = open.weight.saturating_add(node.weight);
        open.depth = open.depth.max(node.depth + 1);
        // Aliases can nest deeper than the text does.
        if open.depth > DEPTH_LIMIT {
            return Err((at, format!("this is nested deeper than {DEPTH_LIMIT} levels")));
        }
        if open.weight > WEIGHT_LIMIT_BYTES {
            return Err((at, "the aliases of this file multiply it beyond 64 MiB".into()));
        }
        match &mut open.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => {
                let Some(key) = open.key.take() else { return Err((at, "a key must be a text".into())) };
                match entries.iter().find(|(earlier, _)| earlier.name == key.name) {
                    Some((earlier, _)) => self.faults.push((
                        key.mark,
                        format!("the key `{}` is there twice; first in line {}", key.name, earlier.mark.line),
                    )),
                    None => entries.push((key, node)),
                }
            }
            Value::Scalar(_) => {}
        }
        Ok(())
    }
}
