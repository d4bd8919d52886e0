"""The two stages of training, their loop, and pseudo-labels."""

from segnb.training.loop import (
    Session,
    TrainingStopped,
    make_accelerator,
    train_stage,
)
from segnb.training.pseudo import pseudo_label
from segnb.training.stages import contrastive_loss, finetune, pretrain

__all__ = [
    "Session",
    "TrainingStopped",
    "contrastive_loss",
    "finetune",
    "make_accelerator",
    "pretrain",
    "pseudo_label",
    "train_stage",
]
