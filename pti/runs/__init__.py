"""A run folder on disk: checkpoints, metrics, record, image grids."""
