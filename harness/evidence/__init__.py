"""What a scenario leaves behind, and reading it again. One module a kind of file; `directory` holds them together."""
