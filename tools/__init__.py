"""Scripts that keep the repository's made files in step with their sources."""
