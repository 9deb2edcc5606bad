"""CLIP text towers: loading, positions, encoding."""

from clipgeom.encoder.encode import Wanted, encode, encode_chunks
from clipgeom.encoder.load import REPRESENTATIONS, TextEncoder, load_text_encoder, parse_representations
from clipgeom.encoder.positions import Position, parse_positions

__all__ = [
    "REPRESENTATIONS",
    "Position",
    "TextEncoder",
    "Wanted",
    "encode",
    "encode_chunks",
    "load_text_encoder",
    "parse_positions",
    "parse_representations",
]
