"""Spherical interpolation for any array library."""
