"""The ``triton`` back end: exact and linear in memory, on NVIDIA GPUs."""
