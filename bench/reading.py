"""A blind reading: answers of several models to everyday questions, mixed so that the reader does not know
whose is whose.

    python -m bench.reading write FOLDER --models new=out/ckpt_ft.pt:data/tok4096.model old=OLD.pt:OLD.model
    python -m bench.reading count FOLDER        # after marks were put into FOLDER/sheet.jsonl

`write` makes sheet.jsonl (a line an answer: its number, the question, the answer, room for two marks) and
key.json (whose answer each number is); of "new*16=..." each answer is the best of sixteen, as sample.py gives
it. A reader fills in "sentence" and "fits", each 0, 1 or 2: is it a sentence that a person could say, and
does it answer this question? `count` prints each model's share of the points.
"""

from __future__ import annotations

if __name__ == "__main__":
    from arianna.system import environment

    environment.restart_with_environment()

import argparse
import json
import random
from pathlib import Path

from arianna.chat import Sampling, complete
from arianna.corpus.template import prompt
from arianna.formats import open_model
from tokenizer import BOS, Tokenizer

QUESTIONS = Path(__file__).with_name("reading_questions.txt")  # in no text that any model of ours has seen
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
EACH = 2  # answers to a question
MARKS = ("sentence", "fits")


def answers(model: str, questions: list[str], best_of: int) -> list[str]:
    """EACH answers of "CHECKPOINT:TOKENIZER" to every question."""
    checkpoint, _, path = model.partition(":")
    tokenizer, transformer = Tokenizer(path or "data/tok4096.model"), open_model(checkpoint)
    prompts = [[BOS, *tokenizer.encode(prompt(q))] for q in questions for _ in range(EACH)]
    sampling = Sampling(80, **SAMPLING, best_of=best_of)
    return [text.strip() for text in complete(transformer, tokenizer, prompts, sampling)]


def write(folder: Path, models: dict[str, str]) -> None:
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    asked = [q for q in questions for _ in range(EACH)]
    rows = [
        (name, q, a)
        for name, model in models.items()
        for q, a in zip(asked, answers(model, questions, int(name.partition("*")[2] or 1)), strict=True)
    ]
    random.Random(1337).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    sheet = [
        {"number": i, "question": q, "answer": a, "sentence": None, "fits": None}
        for i, (_, q, a) in enumerate(rows)
    ]
    (folder / "sheet.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sheet), encoding="utf-8")
    (folder / "key.json").write_text(json.dumps([name for name, _, _ in rows]), encoding="utf-8")


def count(folder: Path) -> None:
    names = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    sheet = [json.loads(line) for line in (folder / "sheet.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in dict.fromkeys(names):
        own = [line for line in sheet if names[line["number"]] == name]
        points = {mark: sum(line[mark] for line in own) / (2 * len(own)) for mark in MARKS}
        print(json.dumps({"model": name, "answers": len(own)} | points))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["write", "count"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=CHECKPOINT[:TOKENIZER]")
    args = parser.parse_args()
    if args.what == "count":
        count(args.folder)
    else:
        write(args.folder, dict(model.split("=", 1) for model in args.models))


if __name__ == "__main__":
    main()
