"""Rendering of a report: page, tables, figures."""
