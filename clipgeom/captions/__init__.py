"""Caption sources: one string in, a stream of captions out.

>>> from clipgeom.captions import open_captions
>>> stream = open_captions("coco2014:val", limit=5000, sample="random", seed=0)
>>> for caption in stream:
...     print(caption.id, caption.image_id, caption.text)
>>> stream.counts.n_used, stream.counts.sha256

A source is never read into memory. Every caption is counted as used or as left out, with the reason.
"""

from clipgeom.captions.sources import open_captions
from clipgeom.captions.stream import Caption, CaptionCounts, CaptionStream

__all__ = ["Caption", "CaptionCounts", "CaptionStream", "open_captions"]
