"""The ``tiled`` back end: exact, linear in memory, pure PyTorch, any device."""
