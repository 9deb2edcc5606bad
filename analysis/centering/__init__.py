"""Study: why raw norms are tighter than centred ones at EOS, and whether to interpolate about the centre."""
