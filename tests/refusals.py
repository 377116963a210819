"""A wrong request is one line that says what is needed."""

import pytest

from reproduce.errors import RequestError

__all__ = ["refused"]


def refused(call, *words):
    """``call`` ends in a RequestError of one line that has these words; what it says."""
    with pytest.raises(RequestError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable()
    for word in words:
        assert word in said, said
    return said
