"""What a model becomes in each format: the size of its files, and its held-out answer loss as the programs that read it compute it.

    python -m arianna.formats.compared --checkpoint=out/ckpt_ft.pt --data_dir=out/ft/data

Prints the table in Markdown and writes nothing; export.py writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from arianna.formats.table import FORMATS, Options
from arianna.system import config

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from arianna_data import Rows
    from model import Transformer
    from tokenizer import Tokenizer


class Kind(NamedTuple):
    """A way to write a model, and the programs that read it."""

    name: str
    format: str  # in FORMATS
    programs: str
    gguf_type: str = "F32"


KINDS = [
    Kind("llama2c", "llama2c", "llama2.c's run"),
    Kind("llama2c-int8", "llama2c-int8", "llama2.c's runq"),
    Kind("hf", "hf", "transformers"),
    Kind("gguf F32", "gguf", "llama.cpp, Ollama"),
    Kind("gguf F16", "gguf", "llama.cpp, Ollama", "F16"),
    Kind("gguf Q8_0", "gguf", "llama.cpp, Ollama", "Q8_0"),
]


def compare(model: Transformer, tokenizer: Tokenizer, rows: Rows, most: int | None = None) -> list[dict[str, Any]]:
    """Of each of KINDS: format, programs, bytes, answers (nats a token), and a note where it cannot be written, which says why.

    `most`: score at most so many rows. Writes nothing.
    """
    from arianna.scoring.losses import answer_loss

    exact = answer_loss(model, rows, most).loss
    found = []
    for kind in KINDS:
        form, options = FORMATS[kind.format], Options(gguf_type=kind.gguf_type, tokenizer=tokenizer)
        line = {"format": kind.name, "programs": kind.programs, "bytes": None, "answers": None, "note": ""}
        try:
            made, computed = form.make(model, options), form.computed(form.stored(model, options), options)
        except ValueError as error:
            found.append(line | {"note": str(error)})
            continue
        size = len(made) if isinstance(made, bytes) else sum(map(len, made.values()))
        found.append(line | {"bytes": size, "answers": exact if computed is model else answer_loss(computed, rows, most).loss})
    return found


def cells(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Of each line: format, programs, size, loss, and what the format changes of it; in place of these three a note, where there is one."""
    exact = next((line["answers"] for line in lines if line["answers"] is not None), None)
    return [
        [line["format"], line["programs"], line["note"]]
        if line["answers"] is None
        else [line["format"], line["programs"], f"{line['bytes'] / 1e6:.1f} MB", f"{line['answers']:.4f}", change(line["answers"] - exact)]
        for line in lines
    ]


def change(difference: float) -> str:
    return f"{difference:+.4f}" if difference else "none"


HEAD = ["format", "opens in", "size", "held-out answers", "change"]


def markdown(lines: list[dict[str, Any]]) -> str:
    rows = [HEAD, ["---", "---", "---:", "---:", "---:"], *(row + [""] * (len(HEAD) - len(row)) for row in cells(lines))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@dataclass(frozen=True)
class CompareConfig:
    """Which model, and on what it is scored."""

    checkpoint: str = "out/ckpt_ft.pt"  # the model, in any format that export.py reads
    tokenizer: str = "data/tok4096.model"  # its tokenizer
    data_dir: str = "out/ft/data"  # a run's data, with the held-out conversations


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(CompareConfig, argv, __doc__)
    try:
        print(markdown(read_and_compare(cfg)))
    except (OSError, ValueError) as error:
        raise config.UsageError(str(error)) from None
    return 0


def read_and_compare(cfg: CompareConfig) -> list[dict[str, Any]]:
    from arianna import export, formats
    from tokenizer import Tokenizer

    model, tokenizer = formats.open_model(cfg.checkpoint), Tokenizer(cfg.tokenizer)
    tokenizer.check_fits(model.args.vocab_size, cfg.checkpoint)
    return compare(model, tokenizer, export.held_out_rows(cfg.data_dir, model))


if __name__ == "__main__":
    config.run_main(main)
