"""Models from any format we read, and to those that others read.

    python -m arianna.export out/arianna_v1_ft.bin  --checkpoint=out/ckpt_ft.pt                            # llama2.c's run
    python -m arianna.export out/arianna_v1_q8.bin  --checkpoint=out/ckpt_ft.pt --format=llama2c-int8      # its runq
    python -m arianna.export out/arianna_hf         --checkpoint=out/ckpt_ft.pt --format=hf                # transformers
    python -m arianna.export out/arianna.gguf       --checkpoint=out/ckpt_ft.pt --format=gguf              # llama.cpp, Ollama
    python -m arianna.export out/arianna.html       --checkpoint=out/ckpt_ft.pt --format=html              # any browser: one file
    python -m arianna.export out/base.pt            --checkpoint=FOLDER_OR_BIN  --format=checkpoint        # from there, to fine-tune

What is written takes its place only after it has been read back and has given the model's weights and logits, bit for bit
(rounded as the format rounds them). Where a format rounds, what that changes is told.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arianna.formats import check_tokenizer, open_model
from arianna.formats.table import FORMATS, Format, Options
from arianna.system import config
from arianna.system.files import write_atomic

if TYPE_CHECKING:  # torch takes seconds; a wrong argument is told before
    from torch import Tensor

    from arianna_data import Rows
    from model import Transformer


@dataclass(frozen=True)
class ExportConfig:
    """What is written, where, and from which model."""

    out: str  # what to write: a .bin (llama2c, llama2c-int8), .gguf, .html or .pt (checkpoint) file, for hf a folder
    checkpoint: str | None = None  # the model: a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face folder; only read
    format: Literal["llama2c", "llama2c-int8", "hf", "gguf", "html", "checkpoint"] = "llama2c"  # checkpoint: weights without a run's state
    half: bool = False  # weights in float16, half the size (only --format=checkpoint)
    gguf_type: Literal["F32", "F16", "Q8_0"] = "F32"  # how a .gguf stores the weights
    html_type: Literal["int8", "F16", "F32"] = "int8"  # how a page (.html) stores the weights
    compare: str | None = None  # a second model for the page (.html), whose answers stand beside the first one's
    tokenizer: str = "data/tok4096.model"  # the model's tokenizer, which hf, gguf and html carry
    report: str | None = None  # a run's report.json, for what hf and html say of it
    data_dir: str | None = None  # a run's data, to tell the held-out answer loss; by default that of the run beside the model
    force: bool = False  # write also where something lies that is no export of this model; a folder is kept under another name

    def __post_init__(self) -> None:
        if self.checkpoint is None:
            raise ValueError("--checkpoint is missing; give the model to export")
        suffix = FORMATS[self.format].suffix
        if suffix and Path(self.out).suffix != suffix:
            raise ValueError(f"{self.out} should end in {suffix}, as files of --format={self.format} do; change the name or the format")
        if self.half and self.format != "checkpoint":
            raise ValueError(f"--half goes with --format=checkpoint; {self.format} is not written in it")
        if self.gguf_type != "F32" and self.format != "gguf":
            raise ValueError(f"--gguf_type goes with --format=gguf; {self.format} is not written in it")
        if self.report is not None and self.format not in ("hf", "html"):
            raise ValueError(f"--report goes with --format=hf or html; {self.format} says nothing of a run")
        for name, given in (("html_type", self.html_type != "int8"), ("compare", self.compare is not None)):
            if given and self.format != "html":
                raise ValueError(f"--{name} goes with --format=html; {self.format} is no page")


class Unfaithful(OSError):
    """A written file that does not give the model back."""


def export_model(model: Transformer, out: str | Path, format: str = "llama2c", **options: Any) -> Transformer:
    """Write a float32 model in one of FORMATS; `options` are those of formats.table.Options.

    What is written is read back before it takes its place: its weights and logits are the model's, rounded where the format
    rounds, bit for bit. Returns the model as the programs that read the format compute it: the given one, or a rounded copy.
    Raises ValueError for what the format cannot hold, OSError for a failed write, and of these Unfaithful if what is read back
    is not the model; what was there before stays then.
    """
    kind, given, out = FORMATS[format], Options(**options), Path(out)
    stored = kind.stored(model, given)
    put(out, kind.make(model, given), lambda fresh: verify(stored, kind, given, fresh, out))
    for name, data in kind.beside(out.name, model, given).items():
        write_atomic(out.with_name(name), data)
    return kind.computed(stored, given)


def put(out: Path, made: bytes | dict[str, bytes], check: Callable[[Path], None]) -> None:
    """Write a file, or a folder of files."""
    if isinstance(made, bytes):
        write_atomic(out, made, check)
        return
    from arianna.formats import hf

    hf.write(out, made, check)


def keep_or_write(model: Transformer, out: str | Path, format: str = "llama2c", **options: Any) -> bool:
    """export_model, unless all is there already, byte for byte. Returns whether it was written."""
    kind, given, out = FORMATS[format], Options(**options), Path(out)
    made = kind.make(model, given)
    files = {out: made} if isinstance(made, bytes) else {out / name: data for name, data in made.items()}
    files |= {out.with_name(name): data for name, data in kind.beside(out.name, model, given).items()}
    if all(path.is_file() and path.read_bytes() == data for path, data in files.items()):
        return False
    export_model(model, out, format, **options)
    return True


def verify(model: Transformer, kind: Format, options: Options, fresh: Path, out: Path) -> None:
    """Read back what was written and compare it. Raises Unfaithful, in whose sentence it goes by its final name `out`."""
    try:
        found = kind.read(fresh, None)
        if options.tokenizer is not None:
            kind.check_tokenizer(fresh, options.tokenizer)
    except ValueError as error:
        raise Unfaithful(f"{out} is not written: read back, it is no such file ({error})") from None
    difference = compare(model, found.to(model.tok_embeddings.weight.device))
    if difference is not None:
        raise Unfaithful(f"{out} is not written: read back, {difference}. What was there before is untouched.")


def compare(model: Transformer, found: Transformer) -> str | None:
    """None if two models hold the same weights and give the same logits over the whole context, bit for bit; else where they differ."""
    import torch

    if found.args.max_seq_len != model.args.max_seq_len:
        return f"its context is {found.args.max_seq_len}, the model's is {model.args.max_seq_len}"
    theirs = found.state_dict()
    for name, weight in model.state_dict().items():
        if not torch.equal(weight, theirs[name]):
            return f"its {name} is not the model's"
    apart = difference(model, found)
    return f"its logits differ from the model's by up to {apart:.3g}" if apart else None


def difference(model: Transformer, other: Transformer) -> float:
    """The largest difference between two models' logits over the whole context; NaN where they are not all numbers."""
    logits, again = (logits_over_context(m) for m in (model, other))
    return float((logits - again).abs().max())


def logits_over_context(model: Transformer) -> Tensor:
    """Logits (1, T, V) of always the same tokens, by one thread: two may round the same sum differently."""
    import torch

    a = model.args
    tokens = torch.arange(a.max_seq_len, device=model.tok_embeddings.weight.device)[None] * 997 % a.vocab_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return model(tokens)
    finally:
        torch.set_num_threads(threads)


def check_paths(source: Path, out: Path, folder: bool) -> None:
    """Raise ValueError unless the input can be read and the output written (as a folder or a file), without one over the other."""
    if not source.is_dir():
        try:
            open(source, "rb").close()
        except OSError as error:
            needed = "a checkpoint (.pt), a llama2.c .bin, a .gguf or a Hugging Face folder is needed there"
            raise ValueError(f"{source} cannot be read ({error.strerror}); {needed}.") from None
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the model to export itself; give another path to write to.")
    if out.is_dir() and not folder:
        raise ValueError(f"{out} is a folder; give the path of a file.")
    if out.is_file() and folder:
        raise ValueError(f"{out} is a file; give the path of a folder.")
    if out.is_dir() and source.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{out} holds the model to export, {source}; give another path to write to.")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ValueError(f"the folder {out.parent} cannot be written ({error.strerror}); make it, or give another path.") from None


def check_free(out: Path, kind: Format, model: Transformer, options: Options) -> None:
    """Raise ValueError if something lies where we would write that is not an export of ours."""
    ask = "Give another path, or --force to write there."
    if out.exists() and not kind.is_ours(out, model):
        raise ValueError(f"{out} holds something else than an export of this model. {ask}")
    for name, data in kind.beside(out.name, model, options).items():
        path = out.with_name(name)
        if path.exists() and not (path.is_file() and path.read_bytes().split(b":")[0] == data.split(b":")[0]):  # "# Made by ..."
            raise ValueError(f"{path} was not made by an export, which would write it too. {ask}")


def read_options(cfg: ExportConfig) -> dict[str, Any]:
    """The options that a format takes, from the command's."""
    if cfg.format not in ("hf", "gguf", "html"):
        return {"half": cfg.half}
    from tokenizer import Tokenizer

    options: dict[str, Any] = {"tokenizer": Tokenizer(cfg.tokenizer)}
    if cfg.format == "gguf":
        return options | {"gguf_type": cfg.gguf_type}
    options["report"] = read_report(Path(cfg.report)) if cfg.report else None
    return options | (page_options(cfg) if cfg.format == "html" else {})


def page_options(cfg: ExportConfig) -> dict[str, Any]:
    """What a page takes: a second model where one is given, and the names of both, which are their files'."""
    compare = open_model(cfg.compare) if cfg.compare else None
    if cfg.compare:
        from tokenizer import Tokenizer

        check_tokenizer(cfg.compare, Tokenizer(cfg.tokenizer))
    names = (Path(cfg.out).stem, Path(cfg.compare or "base").stem)
    return {"html_type": cfg.html_type, "compare": compare, "names": names, "any_size": cfg.force}




def read_report(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON; a run's report.json is needed there.") from None
    from arianna.formats.card import figures

    try:
        figures(found)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no report of a run; its report.json is needed there.") from None
    return found


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(ExportConfig, argv, __doc__)
    source, out, kind = Path(cfg.checkpoint), Path(cfg.out), FORMATS[cfg.format]
    try:
        check_paths(source, out, folder=not kind.suffix)
        options = read_options(cfg)
        model = open_model(source)
        if not cfg.force:
            check_free(out, kind, model, Options(**options))
        if "tokenizer" in options:
            check_tokenizer(source, options["tokenizer"])
        rows = held_out_rows(cfg.data_dir, model) if cfg.data_dir else rows_beside(source, model)
    except (OSError, ValueError) as error:
        raise config.UsageError(str(error)) from None
    try:
        computed = export_model(model, out, cfg.format, **options)
    except ValueError as error:
        raise config.UsageError(str(error)) from None
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(summary(out, model, computed))
    if rows is not None and (cfg.data_dir or computed is not model):
        print(losses(model, computed, rows))
    return 0


def summary(out: Path, model: Transformer, computed: Transformer) -> str:
    size = sum(path.stat().st_size for path in (out.iterdir() if out.is_dir() else [out]))
    if computed is model:
        return f"wrote {out}: {size:,} bytes, read back, its logits are the model's"
    logits = logits_over_context(model)
    spread = f"{difference(model, computed):.3g} (their standard deviation is {logits.std():.3g})"
    return f"wrote {out}: {size:,} bytes, read back; computed as its programs do, its logits differ from the model's by up to {spread}"


def held_out_rows(data_dir: str, model: Transformer) -> Rows:
    from arianna_data import Rows

    return Rows(data_dir, "val", model.args.max_seq_len, model.args.vocab_size)


def rows_beside(source: Path, model: Transformer) -> Rows | None:
    """The held-out conversations of the run that a model is a checkpoint or the result of; None if there are none that fit it."""
    for folder in (source.parent / "data", source.parent / "ft" / "data"):
        with contextlib.suppress(OSError, ValueError):
            rows = held_out_rows(str(folder), model)
            if rows.has_masks:  # else it is a text
                return rows
    return None


def losses(model: Transformer, computed: Transformer, rows: Rows) -> str:
    """The held-out answer loss of the model, and of what was written where that differs."""
    from arianna.scoring.losses import answer_loss

    told, loss = f"held-out answers in {rows.files[0].parent}:", answer_loss(model, rows).loss
    if computed is model:
        return f"{told} {loss:.4f} nats a token"
    return f"{told} {answer_loss(computed, rows).loss:.4f} nats a token as written, {loss:.4f} the model itself"


if __name__ == "__main__":
    config.run_main(main)
