"""Reports about caption sets: measure, write, compare."""
