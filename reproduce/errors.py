"""Errors a user can mend: told in one line, with the exit code of a wrong request."""

__all__ = ["RequestError"]


class RequestError(Exception):
    """A wrong request or missing data, found before the first cell runs (exit code 2)."""
