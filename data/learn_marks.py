"""The last stage of the base: it learns which of its own answers a reader liked.

    python data/learn_marks.py --base=BASE.pt --text=data/base/close --out=data/base/run_marks

A line of data/arianna_marks_*.jsonl is a message that a stranger might type, and what the base before this
stage drew as answers, each with two marks from 0 to 2: could a person say it, does it answer this message.
{"message": ..., "answers": [[text, sentence, fits], ...]}

Of a message's answers a softmax of BETA times the log-likelihood that each has gained is drawn to a softmax
of its marks over TAU: direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290), with a list in
place of a pair. Rows of the text that the base read last, learned as before, keep what it knows. It goes on
after a stop.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    from arianna.system import environment

    environment.restart_with_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from arianna.corpus.conversations import Conversation  # noqa: E402
from arianna.corpus.encoding import ANSWER, encode_turns  # noqa: E402
from arianna.formats import checkpoint, open_model  # noqa: E402
from arianna.system import config  # noqa: E402
from arianna.system.files import sha256  # noqa: E402
from arianna.training.contrast import nats  # noqa: E402
from arianna_data import Rows, collate, shuffled  # noqa: E402
from model import Transformer  # noqa: E402
from tokenizer import IGNORE, Tokenizer  # noqa: E402

MARKS = sorted((ROOT / "data").glob("arianna_marks_*.jsonl"))
BETA = 0.3  # five nats more for one answer than for another are what a mark more asks for
TAU = 0.7
MESSAGES = 8  # a step
ROWS = 4  # of text a step
RATE = 1e-4  # peak: 20 steps of warm-up, then a straight line to 0
WARMUP = 20
SAVED = 20  # steps between two states


@dataclass(frozen=True)
class MarksConfig:
    """The settings of `learn_marks.py`."""

    base: str = "data/base/base.pt"  # the model that drew the answers
    text: str = "data/base/close"  # folder with the train.bin that it read last
    out: str = "data/base/run_marks"  # folder for the states and the result, base.pt
    tokenizer: str = str(ROOT / "data/tok4096.model")  # of that model and that text
    seed: int = 1337  # draws the order of the messages


@dataclass(frozen=True)
class Marked:
    """A message, the answers to it, and the sum of each answer's marks, 0 to 4."""

    message: str
    answers: list[str]
    marks: list[int]


def read_marks(paths: list[Path]) -> Iterator[Marked]:
    """The marked messages of files. Raises UsageError for a line of another form."""
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                texts, *marks = zip(*entry["answers"], strict=True)
                fits = [isinstance(text, str) for text in (entry["message"], *texts)]
                fits += [mark in (0, 1, 2) for mark in (*marks[0], *marks[1])]
            except (ValueError, KeyError, TypeError, IndexError):
                fits = [False]
            if not all(fits):
                wanted = '{"message": ..., "answers": [[text, 0 to 2, 0 to 2], ...]}'
                raise config.UsageError(f"{path}:{number} is no marked message; a line must be {wanted}.")
            yield Marked(entry["message"], list(texts), [a + b for a, b in zip(*marks, strict=True)])


def rows_of(marked: Marked, tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of each answer behind its message."""
    rows = []
    for answer in marked.answers:
        tokens, flags = encode_turns(Conversation(((marked.message, answer),)), tokenizer)
        ids = tokens.astype(np.int64)
        rows.append((ids[:-1], np.where(flags[1:] & ANSWER, ids[1:], IGNORE)))
    return rows


def listed_loss(gained: Tensor, marks: list[int]) -> Tensor:
    """The loss of a message whose answers' log-likelihoods gained so many nats, (N,)."""
    wanted = (torch.tensor(marks, dtype=torch.float) / TAU).softmax(0)
    return -(wanted * (BETA * gained).log_softmax(0)).sum()


def loss_of(
    model: Transformer,
    before: Transformer,
    messages: list[Marked],
    text: tuple[Tensor, Tensor],
    tokenizer: Tokenizer,
) -> Tensor:
    """The mean loss of messages, and that of rows of text, inputs and targets (B, T)."""
    rows = [row for marked in messages for row in rows_of(marked, tokenizer)]
    x, y = collate(rows, model.args.max_seq_len)
    with torch.no_grad():
        was = nats(before, x, y)
    gained = (was - nats(model, x, y)).split([len(marked.answers) for marked in messages])
    lists = [listed_loss(g, marked.marks) for g, marked in zip(gained, messages, strict=True)]
    return torch.stack(lists).mean() + model(*text)


def read_inputs(cfg: MarksConfig) -> tuple[list[Marked], Tokenizer, Transformer, Rows]:
    """The messages, and the base with its tokenizer and its text. Raises UsageError if one cannot be used."""
    if not MARKS:
        raise config.UsageError(f"{ROOT / 'data'} has no arianna_marks_*.jsonl; the stage learns from these.")
    try:
        tokenizer, model = Tokenizer(cfg.tokenizer), open_model(cfg.base)
        tokenizer.check_fits(model.args.vocab_size, cfg.base)
        text = Rows(cfg.text, "train", model.args.max_seq_len, model.args.vocab_size)
    except (OSError, ValueError) as error:
        raise config.UsageError(config.in_words(error)) from None
    return list(read_marks(MARKS)), tokenizer, model, text


def learn(cfg: MarksConfig) -> Path:
    """Train, once through the messages; returns the file of the model."""
    messages, tokenizer, model, text = read_inputs(cfg)
    before, longest = copy.deepcopy(model), model.args.max_seq_len
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    state, steps = Path(cfg.out) / "state.pt", len(messages) // MESSAGES
    made_of = [sha256(path) for path in (cfg.base, cfg.tokenizer, *text.files, *MARKS)] + [cfg.seed]
    for step in range(resume(state, made_of, model, optimizer), steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        some = [messages[i] for i in shuffled(len(messages), step * MESSAGES, MESSAGES, cfg.seed)]
        numbers = text.order(step * ROWS, ROWS, cfg.seed, ROWS)
        rows = collate([text.row(number)[:2] for number in numbers], longest)
        loss = loss_of(model, before, some, rows, tokenizer)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % SAVED == 0 or step + 1 == steps:
            print(f"marks: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
            kept = {"step": step + 1, "made_of": made_of, "optimizer": optimizer.state_dict()}
            checkpoint.save(state, checkpoint.pack(model) | kept)
    checkpoint.save(Path(cfg.out) / "base.pt", checkpoint.pack(model))
    return Path(cfg.out) / "base.pt"


def resume(state: Path, made_of: list, model: Transformer, optimizer: torch.optim.Optimizer) -> int:
    """Take a state of the same files, if there is one; the number of the next step."""
    state.parent.mkdir(parents=True, exist_ok=True)
    if not state.is_file() or (kept := checkpoint.load(state))["made_of"] != made_of:
        return 0
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return kept["step"]


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(MarksConfig, argv, __doc__)
    print(f"the base is {learn(cfg)}")
    return 0


if __name__ == "__main__":
    config.run_main(main)
