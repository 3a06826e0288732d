"""A search needs the extra `search`: where it is not installed, these tests are left out."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("optuna") and find_spec("scipy") else ["test_*.py"]
