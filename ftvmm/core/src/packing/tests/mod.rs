//! Tests of the packer that need more than one of its rooms.

mod images;
mod patches;
