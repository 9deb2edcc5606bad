"""Interpolated midpoints between placeholder token and class word: positions, modes, embeddings."""
