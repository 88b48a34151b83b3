//! The bindings: `ftvmm._core`.
