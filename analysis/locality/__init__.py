"""Study: what the locality regulariser buys."""
