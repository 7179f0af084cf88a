"""Files of an atlas for other programs: vectors, hits, annotations. Written in batches, whole or not at all."""

from __future__ import annotations
