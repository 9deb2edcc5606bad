"""Studies: one file, one question, one report."""
