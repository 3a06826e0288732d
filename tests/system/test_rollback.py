"""A refusal leaves a folder as it was."""

import pytest

from arianna.system.rollback import rolled_back


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ft").mkdir()
    (tmp_path / "ft/ckpt.pt").write_text("old")
    return tmp_path / "ft"


def tree(path):
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("refusal", [ValueError("no"), SystemExit(2)])
def test_a_folder_that_was_moved_away_comes_back(folder, refusal):
    before, beside = tree(folder.parent), folder.with_name("corpus.txt")
    with pytest.raises(type(refusal)), rolled_back(folder, True, (beside,)) as aside:
        assert aside.name == "ft-1" and not folder.exists()
        folder.mkdir()
        (folder / "config.toml").write_text("new")
        beside.write_text("new")
        raise refusal
    assert tree(folder.parent) == before and not aside.exists()


def test_a_new_folder_is_deleted_and_one_that_was_there_is_not(folder):
    new = folder.with_name("new")
    for path in (new, folder):
        with pytest.raises(ValueError), rolled_back(path, False):
            path.mkdir(exist_ok=True)
            (path / "config.toml").write_text("new")
            raise ValueError
    assert not new.exists() and tree(folder) == {"ckpt.pt": "old", "config.toml": "new"}


def test_a_new_folder_goes_with_the_new_ones_above_it(tmp_path):
    for other, left in ((None, []), ("runs/mine.txt", ["runs"])):
        with pytest.raises(ValueError), rolled_back(tmp_path / "runs/a/ft", False):
            (tmp_path / "runs/a/ft").mkdir(parents=True)
            if other:  # another program's, in the meantime
                (tmp_path / other).write_text("mine")
            raise ValueError
        assert [path.name for path in tmp_path.iterdir()] == left
    assert tree(tmp_path) == {"runs/mine.txt": "mine"}


@pytest.mark.parametrize("ending", [KeyboardInterrupt, OSError])
def test_a_signal_or_a_failure_leaves_what_was_begun(folder, ending):
    with pytest.raises(ending), rolled_back(folder, True):
        folder.mkdir()
        (folder / "a").write_text("new")
        raise ending
    assert tree(folder) == {"a": "new"} and tree(folder.with_name("ft-1")) == {"ckpt.pt": "old"}


def test_a_run_that_has_saved_steps_is_never_deleted(folder):
    with pytest.raises(SystemExit), rolled_back(folder, True, saved="ckpt*.pt"):
        folder.mkdir()
        (folder / "ckpt_000000.pt").write_text("new")
        raise SystemExit(2)
    assert tree(folder) == {"ckpt_000000.pt": "new"} and tree(folder.with_name("ft-1")) == {"ckpt.pt": "old"}
