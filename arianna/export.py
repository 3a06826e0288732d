"""Write a model in the format that another program reads, or make a checkpoint of a model from elsewhere.

Run it from the project's folder, where arianna_ft.py lies:

  python -m arianna.export out/a.bin  --checkpoint=out/ckpt_ft.pt                         llama2.c's run
  python -m arianna.export out/q.bin  --checkpoint=out/ckpt_ft.pt --format=llama2c-int8   llama2.c's runq
  python -m arianna.export out/a.html --checkpoint=out/ckpt_ft.pt --format=html           a browser
  python -m arianna.export out/a_hf   --checkpoint=out/ckpt_ft.pt --format=hf             transformers
  python -m arianna.export out/a.gguf --checkpoint=out/ckpt_ft.pt --format=gguf           llama.cpp, Ollama
  python -m arianna.export out/b.pt   --checkpoint=their_model    --format=checkpoint     arianna_ft.py --base

The model may be in any of these formats; it is only read. What is written is read back before it takes its
place, and must be the model, bit for bit (in int8, F16 and Q8_0: the model with rounded weights). Where a
format rounds, the command says what that costs: how far the logits move, and the loss on held-out answers if
the run's data lie beside the model.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the packages are imported, which may be missing
    from arianna.system import environment

    environment.prepare()

import contextlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arianna.formats import find_tokenizer, open_model, open_tokenizer
from arianna.formats.card import figures
from arianna.formats.options import Options
from arianna.formats.table import SUFFIXES, module
from arianna.formats.vocabulary import differences
from arianna.system import config
from arianna.system.files import check_outputs
from arianna_data import Rows

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from model import Transformer

CARRY_A_TOKENIZER = ("hf", "gguf", "html")


@dataclass(frozen=True)
class ExportConfig:
    """The file to write, its format, and the model that it is made from."""

    # the file or folder to write: .bin (llama2c, llama2c-int8), .gguf, .html, .pt (checkpoint), a folder (hf)
    out: str
    # the model: a checkpoint (.pt), a llama2.c .bin, a .gguf, a .html or a Hugging Face folder
    checkpoint: str | None = None
    # see above for what opens each
    format: Literal["llama2c", "llama2c-int8", "hf", "gguf", "html", "checkpoint"] = "llama2c"
    half: bool = False  # --format=checkpoint: store the weights in float16, half the size
    gguf_type: Literal["F32", "F16", "Q8_0"] = "F32"  # --format=gguf: how the weights are stored
    html_type: Literal["int8", "F16", "F32"] = "int8"  # --format=html: how the weights are stored
    compare: str | None = None  # --format=html: a second model, whose answers stand beside the first one's
    # its SentencePiece .model; by default the one the model names, else data/tok4096.model
    tokenizer: str | None = None
    # --format=hf or html: a run's report.json, for what the folder or page says of the run
    report: str | None = None
    # a run's data, to say the loss on held-out answers; by default that of the run beside the model
    data_dir: str | None = None
    force: bool = False  # replace what is there (a folder is kept under another name); a page of any size

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            raise ValueError("--checkpoint is missing; give the model to export")
        suffix = SUFFIXES[self.format]
        if suffix and Path(self.out).suffix != suffix:
            raise ValueError(
                f"{self.out} should end in {suffix}, as files of --format={self.format} do; "
                "change the name or the format"
            )
        for name, formats in {
            "half": ("checkpoint",),
            "gguf_type": ("gguf",),
            "html_type": ("html",),
            "compare": ("html",),
            "report": ("hf", "html"),
        }.items():
            if getattr(self, name) != getattr(type(self), name) and self.format not in formats:
                raise ValueError(
                    f"--{name} goes with --format={' or '.join(formats)}; this is --format={self.format}"
                )


def check_paths(source: Path, out: Path, folder: bool) -> None:
    """Raise ValueError unless the input can be read and the output written, as a folder or as a file."""
    if not source.is_dir():
        try:
            open(source, "rb").close()
        except OSError as error:
            needed = "a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face folder is needed there"
            raise ValueError(f"{source} cannot be read ({error.strerror}); {needed}.") from None
    if out.is_dir() and not folder:
        raise ValueError(f"{out} is a folder; give the path of a file.")
    if out.is_file() and folder:
        raise ValueError(f"{out} is a file; give the path of a folder.")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ValueError(
            f"the folder {out.parent} cannot be written ({error.strerror}); make it, or give another path."
        ) from None


def read_options(cfg: ExportConfig) -> dict[str, Any]:
    """The options that a format takes. Raises ValueError for a tokenizer that is not the model's."""
    options: dict[str, Any] = {"half": cfg.half, "gguf_type": cfg.gguf_type, "html_type": cfg.html_type}
    if cfg.tokenizer or cfg.format in CARRY_A_TOKENIZER or find_tokenizer(cfg.checkpoint):
        options["tokenizer"] = open_tokenizer(cfg.checkpoint, cfg.tokenizer)
    options["report"] = read_report(Path(cfg.report)) if cfg.report else None
    return options | (page_options(cfg) if cfg.format == "html" else {})


def page_options(cfg: ExportConfig) -> dict[str, Any]:
    """The options of a page: a second model where one is given, and both names, which are their files'."""
    if cfg.compare:
        open_tokenizer(cfg.compare, cfg.tokenizer)
    second = open_model(cfg.compare) if cfg.compare else None
    names = (Path(cfg.out).stem, Path(cfg.compare or "base").stem)
    return {"compare": second, "names": names, "any_size": cfg.force}


def read_report(path: Path) -> dict[str, Any]:
    """The contents of a run's report.json. Raises ValueError for another file."""
    try:
        report = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON; a run's report.json is needed there.") from None
    try:
        figures(report)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no report of a run; its report.json is needed there.") from None
    return report


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(ExportConfig, argv, __doc__)
    source, out = Path(cfg.checkpoint), Path(cfg.out)
    inputs = [source, cfg.compare, cfg.tokenizer, cfg.report, cfg.data_dir]
    with config.usage_errors(OSError, ValueError):
        check_paths(source, out, folder=not SUFFIXES[cfg.format])
        check_outputs([out], inputs, cfg.force)
        model, options = open_model(source), read_options(cfg)
        if "tokenizer" in options:
            options["tokenizer"].check_fits(model.args.vocab_size, source)
        further = module(cfg.format).beside(out.name, model, Options(**options))
        check_outputs(map(out.with_name, further), inputs, cfg.force)
        rows = held_out_rows(cfg.data_dir, model) if cfg.data_dir else rows_beside(source, model)
    from arianna.formats import write  # imports torch

    try:
        with config.usage_errors(ValueError):
            computed = write.write_model(model, out, cfg.format, **options)
    except OSError as error:
        print(config.in_words(error), file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in (out.iterdir() if out.is_dir() else [out]))
    print(f"wrote {out}: {size:,} bytes, read back{write.rounding(model, computed)}")
    gguf = cfg.format == "gguf"
    if (gguf or cfg.format == "hf") and (sentence := differences(options["tokenizer"], spaces_kept=gguf)):
        print(sentence)
    if rows is not None and (cfg.data_dir or computed is not model):
        print(losses(model, computed, rows))
    return 0


def held_out_rows(data_dir: str, model: Transformer) -> Rows:
    return Rows(data_dir, "val", model.args.max_seq_len, model.args.vocab_size)


def rows_beside(source: Path, model: Transformer) -> Rows | None:
    """Held-out conversations of the model's run, looked for beside it; None where none fit it."""
    for folder in (source.parent / "data", source.parent / "ft" / "data"):
        with contextlib.suppress(OSError, ValueError):
            rows = held_out_rows(str(folder), model)
            if rows.has_masks:  # else it is a text
                return rows
    return None


def losses(model: Transformer, computed: Transformer, rows: Rows) -> str:
    """The loss on held-out answers of the model, and of what was written where that is another."""
    from arianna.scoring.losses import answer_loss

    place, loss = f"held-out answers in {rows.files[0].parent}:", answer_loss(model, rows).loss
    if computed is model:
        return f"{place} {loss:.4f} nats a token"
    written = answer_loss(computed, rows).loss
    return (
        f"{place} {written:.4f} nats a token as written, {loss:.4f} the model itself ({written - loss:+.4f})"
    )


if __name__ == "__main__":
    config.run_main(main)
