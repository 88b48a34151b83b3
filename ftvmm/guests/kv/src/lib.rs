//! The key-value engine.
#![cfg_attr(not(test), no_std)]
