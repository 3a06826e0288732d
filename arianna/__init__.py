"""The package behind the six scripts, in rooms that stand on a ladder.

A file imports only from steps below its own; files of one room may import each other.

    11 arianna_ft.py                                     5 arianna/formats/   arianna/generate.py
    10 arianna/report.py  arianna/search.py              4 model.py (over arianna/fused.py)   arianna_data.py
     9 arianna/reporting/                                3 arianna/corpus/    arianna/ops.py
     8 train_arianna.py  sample.py  evaluate  export     2 tokenizer.py
     7 arianna/scoring/                                  1 arianna/system/
     6 arianna/training/   arianna/chat.py   web.py
       (chat.py over arianna/best_of.py)

tests/test_house.py holds the ladder.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
