"""The two stages of training, the loop they share, and pseudo-labels."""

from segnb.training.loop import TrainingStopped, train_stage
from segnb.training.pseudo import pseudo_label
from segnb.training.session import Session, make_accelerator
from segnb.training.stages import (
    contrastive_loss,
    contrastive_step,
    cross_entropy_step,
    finetune,
    pretrain,
)

__all__ = [
    "Session",
    "TrainingStopped",
    "contrastive_loss",
    "contrastive_step",
    "cross_entropy_step",
    "finetune",
    "make_accelerator",
    "pretrain",
    "pseudo_label",
    "train_stage",
]
