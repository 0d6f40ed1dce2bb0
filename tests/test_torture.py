"""A few of the kills that `make torture` does by the dozen: see tests/torture.py."""

import pytest
from torture import torture


@pytest.mark.parametrize("kind", ["training", "archive", "pack"])
def test_work_that_was_killed_ends_as_if_left_alone(tmp_path, kind):
    assert not torture(kind, 1, 1, tmp_path)["faults"]
