"""The stages: a module for each network of the world, or for a round of its training."""
