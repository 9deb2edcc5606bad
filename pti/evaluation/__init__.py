"""Measures of a trained run: judges, attributes, metrics."""
