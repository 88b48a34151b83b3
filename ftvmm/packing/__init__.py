"""What `ftvmm pack` puts into an image beside code: which files, and which libraries a program needs."""
