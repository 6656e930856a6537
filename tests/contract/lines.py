"""Which version lines of the server a test runs with. Without a mark it runs with each (`conftest.py`, `line`)."""

import pytest

from tools.trial.node import PDS_LINES

one_line = pytest.mark.parametrize("line", PDS_LINES[-1:], indirect=True)
"""For what the program decides by itself, from files and answers that have the same form in both lines."""
