"""A handful of the kills that `make torture` does by the dozen: see tests/torture.py."""

import pytest
from torture import torture


@pytest.mark.parametrize("kind", ["training", "sweep", "archive", "delta"])
def test_work_that_was_killed_ends_otherwise(tmp_path, kind):
    found = torture(kind, 1, 1, tmp_path)
    assert not found["what"], found["what"]
