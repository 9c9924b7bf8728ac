"""One engine a state folder."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eventcore.errors import StateInUse, StoreUnavailable
from eventcore.store.lock import hold_state

HOLDER = """
import sys
from pathlib import Path
from eventcore.store.lock import hold_state
with hold_state(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
#: Root may write anywhere: so the child becomes nobody first, once everything is imported.
UNPRIVILEGED = """
import os, sys
from pathlib import Path
from eventcore.errors import StoreUnavailable
from eventcore.store.lock import hold_state
if os.getuid() == 0:
    os.setuid(65534)
try:
    with hold_state(Path(sys.argv[1])):
        print("held")
except StoreUnavailable as error:
    print(error)
"""


def test_the_folder_is_made_for_its_owner_alone(tmp_path):
    """With its parents; the lock names this process while it is held, and nobody after."""
    folder = tmp_path / "a" / ".eventcore"
    with hold_state(folder) as lock:
        assert (lock.folder, lock.pid) == (folder, os.getpid())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "lock").read_text() == str(os.getpid())
    assert (folder / "lock").read_text() == ""


def test_a_second_holder_is_refused_by_name_until_the_first_is_gone(tmp_path):
    """The message names process and folder; SIGKILL frees the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateInUse) as caught, hold_state(tmp_path):
            pass
        assert f"process {holder.pid}" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    finally:
        holder.kill()
        holder.communicate()
    with hold_state(tmp_path):
        pass


def test_a_holder_that_has_not_written_its_number_is_refused_too(tmp_path):
    """Nor does rubbish in the file reach the message."""
    with hold_state(tmp_path):
        (tmp_path / "lock").write_text("no number\x00")
        with pytest.raises(StateInUse, match="another process"), hold_state(tmp_path):
            pass


def test_the_lock_is_free_after_an_error_inside(tmp_path):
    """Whatever ends the body."""
    with pytest.raises(ZeroDivisionError), hold_state(tmp_path):
        raise ZeroDivisionError
    with hold_state(tmp_path):
        pass


def test_children_do_not_inherit_the_lock(tmp_path):
    """A function's process that outlives the engine must not keep the next one out."""
    command = [sys.executable, "-c", "print('runs', flush=True); input()"]
    with hold_state(tmp_path):
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        # From here on it is past its exec.
        assert child.stdout.readline() == b"runs\n"
    try:
        with hold_state(tmp_path):
            pass
    finally:
        child.communicate(b"\n")


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path):
    """It names the folder and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable) as caught, hold_state(tmp_path / "file" / "state"):
        pass
    assert str(tmp_path / "file" / "state") in str(caught.value)
    assert "Not a directory" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("exists", [True, False], ids=["lock is there", "lock is not there"])
def test_a_read_only_folder_is_one_clear_sentence(world_readable: Path, exists):
    """It names the folder and the reason."""
    if exists:
        (world_readable / "lock").touch()
    world_readable.chmod(0o555)
    child = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(world_readable)], capture_output=True, text=True, check=True
    )
    assert child.stdout == f"the state folder {world_readable} can't be written to: Permission denied\n"
