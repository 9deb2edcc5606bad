"""The recipe: every network of the world from nothing, seeded and resumable."""
