"""The command `pti`."""
