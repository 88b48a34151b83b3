"""The subcommands of `ftvmm`, one file each."""
