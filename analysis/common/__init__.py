"""Helpers of all studies."""
