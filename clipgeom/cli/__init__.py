"""The command `clipgeom`."""
