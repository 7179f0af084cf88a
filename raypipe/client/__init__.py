"""Ask a server for an atlas, as one on this machine is asked; needs neither torch nor ray nor our other packages."""

from __future__ import annotations
