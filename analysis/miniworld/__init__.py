"""Study: whether the embedded world keeps its promises."""
