"""Errors that a user can fix: what is wrong, where, and what to do."""

from __future__ import annotations


class SegnbError(Exception):
    """Base of all errors caused by input or set-up; printed without a traceback."""


class DataError(SegnbError):
    """A file or a label is wrong or missing."""


class ConfigError(SegnbError):
    """Options that do not fit each other or this machine."""
