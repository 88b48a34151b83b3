//! Why a program cannot be packed: what, where, and the way out where there is one.

use std::path::PathBuf;

use thiserror::Error;

use crate::determinism::DeterminismError;

/// A program that cannot be packed.
#[derive(Debug, Error)]
pub enum PackError {
    #[error("{}: {reason}", path.display())]
    Read { path: PathBuf, reason: std::io::Error },
    #[error("the personality {} cannot be used: {reason}", path.display())]
    Personality { path: PathBuf, reason: String },
    #[error("{path}: {refusal}")]
    Object { path: String, refusal: Refusal },
    #[error(
        "{path} is linked at {address:#x}, where the personality lies (up to {end:#x}): link it as a \
         position-independent executable, or higher"
    )]
    Occupied { path: String, address: u64, end: u64 },
    #[error("{place}: the system call there has no room for a jump, nor have the instructions around it")]
    NoRoom { place: String },
    #[error("{place}: the instruction there cannot be moved: {reason}")]
    Immovable { place: String, reason: String },
    #[error("{what} would end at {end:#x}, and {limit:#x} is the limit: pack fewer or smaller files")]
    TooLarge { what: String, end: u64, limit: u64 },
    #[error("{path} is none of the packed files")]
    NoSuchFile { path: String },
    #[error("{}: {error}", place.as_deref().unwrap_or("a place without a name"))]
    Unusable { place: Option<String>, error: DeterminismError },
    #[error("the image cannot be written: {0}")]
    Encode(String),
}

/// Why a file cannot be a part of an image's code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("it is no ELF file")]
    NotElf,
    #[error(
        "it is a script for {interpreter}: pack that, with the script as a file and an argument \
         (ftvmm pack {interpreter} --file {path}={path} --arg {path})"
    )]
    Script { interpreter: String, path: String },
    #[error("it is a 32-bit program: pack one for x86-64")]
    ThirtyTwoBit,
    #[error("it is no program for x86-64 (ELF machine {0}, which is not 62)")]
    Machine(u16),
    #[error("it is neither a program nor a shared library (ELF type {0}, which is not 2 or 3)")]
    Kind(u16),
    #[error("it is a shared library, and no program")]
    Library,
    #[error("it is linked at fixed addresses, which only the program itself can have")]
    Fixed,
    #[error(
        "its segment at {0:#x} is both writable and executable: link it without --omagic, and keep what is written apart from code"
    )]
    WritableAndExecutable(u64),
    #[error("its code has relocations (DT_TEXTREL), so that it would have to be written: compile it with -fPIC")]
    TextRelocations,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}
