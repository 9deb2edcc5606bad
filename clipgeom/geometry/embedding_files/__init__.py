"""Files of embeddings: read, write, and recognise those that `clipgeom encode` wrote."""

from clipgeom.geometry.embedding_files.load import load_embeddings
from clipgeom.geometry.embedding_files.origin import (
    embeddings_images,
    embeddings_label,
    embeddings_metadata,
    groups_of_embeddings,
)
from clipgeom.geometry.embedding_files.save import check_embeddings_path, save_embeddings

__all__ = [
    "check_embeddings_path",
    "embeddings_images",
    "embeddings_label",
    "embeddings_metadata",
    "groups_of_embeddings",
    "load_embeddings",
    "save_embeddings",
]
