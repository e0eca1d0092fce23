"""Image data sets: where they come from and how a step's batch is made."""
