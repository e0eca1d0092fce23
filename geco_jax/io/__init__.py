"""A run's files: its folder, its logs, its checkpoints."""
