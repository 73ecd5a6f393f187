"""Files are whole or not there, private, and leave nothing behind that outlives its writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _full_disk import room_for

from lightning_unlearn.runtime import remove_leftovers, temporary_name, writable_folder, written_whole


def names(folder: str = "folder") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def old(content: str = "old") -> Path:
    path = Path("folder") / "file.json"
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_what_is_written_whatever_was_there(umask: int) -> None:
    path = old()
    before = os.umask(umask)
    try:
        with written_whole(path) as new:
            new.write_text("new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_private_from_the_first_byte_on() -> None:
    with written_whole("folder/file") as new:
        assert new.stat().st_mode & 0o777 == 0o600
        assert new.parent == Path("folder")


def test_a_library_that_replaces_the_file_makes_it_no_more_readable() -> None:
    with written_whole("folder/file") as new:
        new.unlink()
        new.write_text("theirs")
        new.chmod(0o666)
    assert Path("folder/file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("mine")])
def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(error: BaseException) -> None:
    path = old()
    with pytest.raises(type(error)), written_whole(path) as new:
        new.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names() == ["file.json"]


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else() -> None:
    path = old()
    with room_for(1000), pytest.raises(OSError, match="File too large"), written_whole(path) as new:
        new.write_bytes(bytes(5000))
    assert path.read_text() == "old"
    assert names() == ["file.json"]


def test_a_name_may_depend_on_what_was_written() -> None:
    with written_whole("folder/file", named=lambda new: Path("folder") / f"file-{len(new.read_text())}") as new:
        new.write_text("four")
    assert names() == ["file-4"]


KILLED = """
import os, signal
from lightning_unlearn.runtime import written_whole
with written_whole("folder/file.json") as new:
    new.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_at_the_next_start() -> None:
    path = old()
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names()) == 2
    writable_folder("folder")
    assert names() == ["file.json"]


def left(name: str, *, days: float = 0.0) -> str:
    path = Path("folder") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return name


def test_what_a_living_process_writes_stays() -> None:
    mine = left(temporary_name("report.html"), days=30)
    parent = left(temporary_name("report.html").replace(f"-{os.getpid()}-", "-1-"), days=30)
    remove_leftovers("folder")
    assert names() == sorted([mine, parent])


def test_what_another_machine_writes_on_a_shared_folder_stays_for_a_day() -> None:
    elsewhere = ".report.json.elsewhere-7-{}.tmp"
    fresh = left(elsewhere.format("0" * 8), days=0.9)
    left(elsewhere.format("1" * 8), days=1.1)
    remove_leftovers("folder")
    assert names() == [fresh]


@pytest.mark.parametrize("theirs", ["notes.tmp", ".notes.tmp", ".a.b-1.tmp", "model.ckpt", ".report.json.swp"])
def test_files_of_others_are_never_removed(theirs: str) -> None:
    left(theirs, days=30)
    writable_folder("folder")
    assert names() == [theirs]


def test_a_folder_of_a_killed_process_is_removed_too() -> None:
    gone = Path("folder") / temporary_name("model").replace(f"-{os.getpid()}-", f"-{dead_process()}-")
    gone.mkdir(parents=True)
    (gone / "model.safetensors").write_text("half")
    remove_leftovers("folder")
    assert names() == []


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_full_disk_is_found_out_at_the_start() -> None:
    with room_for(0), pytest.raises(OSError, match=r"folder that can be written. Found `folder`: .*File too large"):
        writable_folder("folder")
    assert names() == []
