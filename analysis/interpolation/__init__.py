"""Study: whether images at interpolated conditioning are valid."""
