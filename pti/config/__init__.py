"""Settings: their schema, TOML files, and which of them a stage's checkpoints depend on."""
