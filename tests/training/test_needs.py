"""What a run takes of the disk."""

from arianna.system.resources import megabytes
from arianna.training.needs import bytes_on_disk
from arianna.training.settings import TrainConfig


def test_what_the_default_run_takes():
    assert bytes_on_disk(TrainConfig(), 7_155_360) == 601_050_240
    assert megabytes(601_050_240) == "601 MB"
