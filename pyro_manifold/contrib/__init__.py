"""Applications that are not core: kept working, each by its own tests, and imported by nothing else."""
