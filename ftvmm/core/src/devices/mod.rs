//! The outside world of a VM that runs live: TAP, block file and console.
