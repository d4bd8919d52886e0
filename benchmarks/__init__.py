"""Measurements: the loss against its peers and its floor."""
