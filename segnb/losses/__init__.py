"""Pixel contrastive losses: paper form, official form, and SupCon, exact at any size.

The forms live in :mod:`segnb.losses.paper`, :mod:`segnb.losses.official` and
:mod:`segnb.losses.supcon`; each is a few lines over the two functions of
:mod:`segnb.losses._core`, which every back end implements.
"""

from __future__ import annotations

from segnb.losses import official, paper
from segnb.losses._core import Backend
from segnb.losses._reduction import Reduction
from segnb.losses.supcon import supcon_loss

__all__ = ["Backend", "Reduction", "official", "paper", "supcon_loss"]
