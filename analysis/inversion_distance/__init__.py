"""Study: at what distance to invert."""
