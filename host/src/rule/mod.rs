//! Components: loading, limits, calls, checked answers.
