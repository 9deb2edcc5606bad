"""Measurements of a report."""
