"""Contrastive learning for label-efficient semantic segmentation (Zhao et al., ICCV 2021).

Data flows one way: recipe → data set → augmentation (views) → network → loss → training →
evaluation → ledger → plots and widgets. Importing ``segnb`` loads nothing heavy.
"""

__version__ = "0.1.0"
