"""Folders for processes without privileges."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """A folder that another user can reach: `tmp_path` lies in one that its owner alone may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
        yield folder
        folder.chmod(0o755)
