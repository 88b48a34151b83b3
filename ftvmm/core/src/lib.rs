//! The hot path of ftvmm: the virtual machine, its log, and the fault-tolerance protocol.
//!
//! `docs/architecture.md` maps every module in a line.
