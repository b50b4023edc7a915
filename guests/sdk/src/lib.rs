//! Write a Tidegate rule in Rust: over columns, or as a function of one row; or an [exchange adapter](exchange).
//!
//! A rule is a type that implements [`Rule`] and is named in [`export!`]. It gets a [`Batch`] of rows as
//! columns and answers with an [`Outcome`]: which rows it rejects and why, which it drops, and the columns
//! that it writes. It runs in a sandbox without clock, files and network; time is an argument.
//!
//! The crate of a rule is an ordinary library: `cargo test` runs its unit tests natively, with batches from
//! a [`BatchBuilder`]; no WebAssembly is involved until `cargo xtask guests` builds the component.
//!
//! Where to look:
//!
//! | you want | read |
//! |---|---|
//! | a first rule | the README of this crate, or [`row_rule!`] |
//! | a rule over columns, the fast form | [`Rule`], [`Batch::floats`] and its siblings, [`Outcome`] |
//! | settings with units such as `5m` | [`Duration`] |
//! | something kept for each series | [`PerSeries`] |
//! | unit tests | [`BatchBuilder`], [`Instance`], [`Outcome::verdicts`] |
//! | tests that run natively and in the component | `fixture` (not in WebAssembly) |
//! | an exchange adapter | [`exchange`] |

mod batch_builder;
mod column;
pub mod exchange;
#[cfg(not(target_family = "wasm"))]
pub mod fixture;
mod instance;
mod outcome;
mod row;
mod series;
mod settings;

/// The types of `wit/rule.wit`, generated. The ones that a rule needs are re-exported at the crate's root.
#[allow(missing_docs, unsafe_code, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/rule.wit",
        world: "tidegate-rule",
        pub_export_macro: true,
        default_bindings_module: "tidegate_guest::bindings",
        additional_derives: [PartialEq],
    });
}

pub use batch_builder::BatchBuilder;
pub use bindings::exports::tidegate::rule::rule::{
    Batch, Column, Description, InputColumn, Kind, Outcome, OutputColumn, Reject, Texts, Values,
};
pub use column::{Booleans, Floats, Integers, Numbers, TextColumn, Timestamps};
pub use instance::{Instance, describe};
pub use outcome::Verdict;
pub use series::{PerSeries, SeriesColumns};
pub use settings::{Duration, NoSettings};

/// A rule over columns.
///
/// There is one instance for each partition, it sees the partition's batches in order, and it is thrown away
/// after any error. What it keeps between calls must be what [`Rule::remember`] can rebuild from rows that
/// the pipeline has written.
pub trait Rule: Sized + 'static {
    /// Lower-case letters, digits, `-` and `_`; at most 64 bytes.
    const NAME: &'static str;
    /// What the rule does, in one sentence for people.
    const SUMMARY: &'static str;
    /// The rule's own version, for people: write `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// What the pipeline file may set. Put `#[serde(default, deny_unknown_fields)]` on the struct, so that a
    /// misspelt setting is an error; its doc comments become descriptions in the JSON Schema. A rule without
    /// settings uses [`NoSettings`].
    type Settings: serde::de::DeserializeOwned + schemars::JsonSchema;
    /// Why the rule rejects rows; see [`reasons!`]. A rule that never rejects uses [`NoReasons`].
    type Reason: Reasons;

    /// The columns that the rule reads; the host passes these and no others. See [`input`] and
    /// [`optional_input`].
    fn reads() -> Vec<InputColumn>;

    /// The columns that the rule writes; the host takes these and no others. See [`output`].
    fn writes() -> Vec<OutputColumn>;

    /// A rule with these settings.
    ///
    /// # Errors
    /// One sentence for whoever wrote the pipeline file, when a setting makes no sense.
    fn new(settings: Self::Settings) -> Result<Self, String>;

    /// Whether the rule keeps anything between calls, with its settings. Only then does the host read rows back
    /// and call [`Rule::remember`].
    fn remembers(&self) -> bool {
        false
    }

    /// Decides a batch. `now` is the time at which the host read it, in milliseconds since 1970; use no
    /// other clock.
    ///
    /// # Errors
    /// When the rule cannot decide this batch at all. A bad row is no error: reject it.
    fn transform(&mut self, now: i64, input: &Batch) -> Result<Outcome, String>;

    /// Takes rows that the pipeline has written, oldest first: the columns that the rule reads and writes.
    fn remember(&mut self, output: &Batch) {
        let _ = output;
    }
}

/// A closed set of reasons for rejecting a row. Make one with [`reasons!`].
pub trait Reasons: Copy + 'static {
    /// The names, in the order of [`Reasons::index`].
    const NAMES: &'static [&'static str];

    /// The reason's place in [`Reasons::NAMES`].
    fn index(self) -> u32;
}

/// The reasons of a rule that never rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReasons {}

impl Reasons for NoReasons {
    const NAMES: &'static [&'static str] = &[];

    fn index(self) -> u32 {
        match self {}
    }
}

/// Declares the closed set of reasons of a rule: an enum, and for each variant the name that appears in dead
/// letters and as a label of metrics (lower-case letters, digits and `_`; at most 64 bytes; at most 64 of
/// them).
///
/// ```
/// tidegate_guest::reasons! {
///     /// Why `wide_range` rejects a row.
///     pub enum Reason {
///         /// A price is missing.
///         MissingPrice = "missing_price",
///         /// The range is wider than the setting allows.
///         TooWide = "too_wide",
///     }
/// }
/// # use tidegate_guest::Reasons;
/// assert_eq!(Reason::NAMES, ["missing_price", "too_wide"]);
/// assert_eq!(Reason::TooWide.index(), 1);
/// ```
#[macro_export]
macro_rules! reasons {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$variant_attribute])* $variant),+
        }

        impl $crate::Reasons for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];

            fn index(self) -> u32 {
                self as u32
            }
        }
    };
}

/// A column that the rule reads and cannot do without.
pub fn input(name: &str, kind: Kind) -> InputColumn {
    InputColumn { name: name.to_owned(), kind, optional: false }
}

/// A column that the rule reads where the pipeline has it; ask with [`Batch::has_column`].
pub fn optional_input(name: &str, kind: Kind) -> InputColumn {
    InputColumn { name: name.to_owned(), kind, optional: true }
}

/// A column that the rule writes.
pub fn output(name: &str, kind: Kind) -> OutputColumn {
    OutputColumn { name: name.to_owned(), kind }
}

/// Makes the crate a component that exports this rule. Natively it only checks that the type is a [`Rule`],
/// so that several rules can be linked into one program.
#[macro_export]
macro_rules! export {
    ($rule:ty) => {
        const _: () = {
            const fn is_a_rule<R: $crate::Rule>() {}
            is_a_rule::<$rule>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<$crate::Instance<$rule>> =
                    const { ::std::cell::RefCell::new($crate::Instance::unconfigured()) };
            }

            struct Component;

            impl $crate::bindings::exports::tidegate::rule::rule::Guest for Component {
                fn describe() -> $crate::Description {
                    $crate::describe::<$rule>()
                }

                fn configure(settings: ::std::string::String) -> Result<bool, ::std::string::String> {
                    INSTANCE.with_borrow_mut(|instance| instance.configure(&settings))
                }

                fn transform(
                    now: i64,
                    input: $crate::Batch,
                ) -> Result<$crate::Outcome, ::std::string::String> {
                    INSTANCE.with_borrow_mut(|instance| instance.transform(now, &input))
                }

                fn remember(output: $crate::Batch) {
                    INSTANCE.with_borrow_mut(|instance| instance.remember(&output));
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

/// The example of the README, compiled and run with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
