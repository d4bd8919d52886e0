"""Errors that a user can act on: what is wrong, where, and what to do."""

from __future__ import annotations


class SegnbError(Exception):
    """Base of all errors that come from input or set-up; printed without a traceback."""


class DataError(SegnbError):
    """A file or a label is not what it should be."""


class ConfigError(SegnbError):
    """Options that do not fit each other or this machine."""
