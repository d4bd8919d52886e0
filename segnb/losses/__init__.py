"""Pixel contrastive losses: paper form, official form, and SupCon, exact at any size.

The forms live in :mod:`segnb.losses.paper`, :mod:`segnb.losses.official` and
:mod:`segnb.losses.supcon`. Each checks its input in :mod:`segnb.losses.pixels` and asks
:mod:`segnb.losses.backends`, whose head states the mathematics, for a back end:
:mod:`segnb.losses.plain` is the one to read.
"""

from __future__ import annotations

from segnb.losses import official, paper
from segnb.losses.backends import Backend, Reduction
from segnb.losses.supcon import supcon_loss

__all__ = ["Backend", "Reduction", "official", "paper", "supcon_loss"]
