"""Vectors on disk: the cache, the store of one caption set, and the encoding run that fills it."""
