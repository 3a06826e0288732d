import os
import shutil
import sys

import pytest

from arianna.system import resources


def test_a_folder_that_can_be_written_passes_and_nothing_is_left(tmp_path):
    resources.check_writable(tmp_path / "a/b/c")
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_link_to_nowhere_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(
            ValueError, match=rf"{name}/ft cannot be written \(.*{name}: .*give another --out_dir"
        ):
            resources.check_writable(tmp_path / name / "ft")


def test_a_disk_without_room_is_told_with_both_numbers(tmp_path, monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=50_000_000))
    resources.check_disk(tmp_path / "new", 50_000_000 - resources.SPARE_DISK)
    with pytest.raises(ValueError, match="new would grow by 321 MB, but its disk has 50 MB left"):
        resources.check_disk(tmp_path / "new", 300_000_000)


def test_memory_that_is_not_there_is_told_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "memory_left", lambda: 500_000_000)
    resources.check_memory(500_000_000)
    with pytest.raises(ValueError, match="about 501 MB of memory, but 500 MB can be had"):
        resources.check_memory(501_000_000)
    with pytest.raises(ValueError, match=r"a\.pt has 501 MB, but only 500 MB"):
        resources.check_file(tmp_path / "a.pt", 501_000_000)
    monkeypatch.setattr(resources, "memory_left", lambda: None)
    resources.check_memory(1 << 60)


@pytest.mark.skipif(os.name != "posix", reason="asks /proc or sysconf")
def test_the_memory_that_can_be_had_is_some_and_not_more_than_there_is():
    left = resources.memory_left()
    assert 0 < left < 1 << 50
    if sys.platform != "linux":
        assert left == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_sizes_are_told_in_megabytes():
    assert resources.megabytes(601_050_240) == "601 MB"
