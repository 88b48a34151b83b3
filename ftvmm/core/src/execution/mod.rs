//! A machine run alone: live, recorded or replayed.
