"""The settings of arianna_ft.py and, through it, of the trainer; its files; the trainer's command line.

Standard library only: flags are checked before torch is imported.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from arianna import ROOT
from arianna.system import config
from arianna.system.files import check_name, check_outputs
from arianna.training.settings import PRESETS, TrainConfig

SHIPPED_BASE = "out/ckpt_v1_base.pt"
ITS_PROSE = "data/arianna_corpus.txt"  # the shipped base was trained on it, without the part held out
ALIASES = {"iterations": "max_iters", "lr": "learning_rate"}
SHAPE = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of")
INSTEAD = {  # what to do instead of giving flags that arianna_ft.py does not have
    "init_from": "it always starts from --base, or goes on; train_arianna.py trains from scratch",
    "data_dir": "it makes token shards of --conversations=FILE; train_arianna.py trains on shards of yours",
    "base_text_dir": "it makes token shards of --base_text=FILE_OR_FOLDER",
    " ".join(SHAPE): "a fine-tune keeps the shape of its base; train_arianna.py trains another from scratch",
    "data dataset train_data train_file corpus": "give your conversations with --conversations=FILE",
    "model model_name_or_path checkpoint": "give the model to start from with --base=FILE_OR_FOLDER",
    "base_model": "give the model to start from with --base=FILE_OR_FOLDER",
    "output output_dir out": "give the folder for all that is written with --out_dir=FOLDER",
    "iters steps max_steps": "give the number of steps with --max_iters=NUMBER",
    "epochs num_epochs num_train_epochs": "a run is as long as --max_iters=NUMBER says; its epochs are told",
    "fp16 bf16 precision": "the number format of the steps is --dtype=float32 or bfloat16",
    "context block_size seq_len max_length": "give the context with --max_seq_len=NUMBER",
}
ELSEWHERE = {flag: advice for flags, advice in INSTEAD.items() for flag in flags.split()}
NOT_KEPT = ("fresh", "force", "dry_run", *ELSEWHERE)  # settings of one start, or that follow from others
TRAINER_HELP = """
Settings may also stand in a file, --config=my.toml, as max_iters = 300; flags win over it. Each run writes
its own, out/ft/config.toml.

Any flag of train_arianna.py that changes a fine-tune works here too and is passed on. The most used:
  --max_iters X         optimizer steps (also --iterations; default 1000)
  --learning_rate X     peak rate (also --lr; default 1e-5)
  --batch_size X        rows of a step (default 8)
  --loss_on X           all or answers: the tokens that are trained (default all)
  --max_seq_len X       a longer context than the base's, for long conversations
  --eval_interval X     steps between evaluations (default 100)
  --device X, --seed X, --save_minutes X ...: python train_arianna.py --help
"""


@dataclass(frozen=True)
class PipelineConfig:
    """The pipeline's own settings; the trainer's are declared in arianna/training/settings.py alone."""

    conversations: str = "data/arianna_conversations.jsonl"  # the file of conversations, one a line
    # the model to start from: a .pt, a llama2.c .bin, a .gguf or a Hugging Face folder
    base: str = SHIPPED_BASE
    tokenizer: str = "data/tok4096.model"  # the tokenizer that the base was trained with
    base_text: str | None = None  # text (file or folder) that the base knows, to measure what is forgotten
    out_dir: str = "out"  # folder for all that is written
    # rise of the loss on base text that is allowed, nats a token; beyond it weights are blended
    max_forgetting: float = 0.10
    # share of the tuned weights in the result, 0 to 1, instead of what the guard chooses
    blend: float | None = None
    # best: what docs/defaults.md shows to be best; flags beside it win over it
    preset: Literal["gentle", "best"] = "gentle"
    hours: float | None = None  # search settings for so long, then train with the best (needs optuna, scipy)
    workers: int | None = None  # processes that search, one thread each; by default one a core, one for a GPU
    storage: str | None = None  # for a search on several machines: Optuna's URL, or a journal's path
    fresh: bool = False  # begin anew; the old run's folder ft becomes ft-1
    force: bool = False  # replace files in out_dir that no run of this command made
    # score base and result by what they write, and make the morning report (a minute or two)
    report: bool = True
    dry_run: bool = False  # check everything, time a step, write nothing

    def __post_init__(self) -> None:
        if not 0 <= self.max_forgetting < math.inf:
            raise ValueError(f"max_forgetting is {self.max_forgetting}; it must be a number of at least 0")
        if self.blend is not None and not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend}; it must be from 0 (the base) to 1 (the tuned model)")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(f"hours is {self.hours}; it must be a number above 0")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if self.hours is None and (self.workers is not None or self.storage is not None):
            raise ValueError("--workers and --storage belong to --hours; give the hours to search, too")

    @property
    def known_text(self) -> str | None:
        """Real text that the base knows, if there is any."""
        shipped = Path(self.base) == Path(SHIPPED_BASE) and Path(ITS_PROSE).is_file()
        return self.base_text or (ITS_PROSE if shipped else None)

    @property
    def run(self) -> Path:
        return Path(self.out_dir) / "ft"

    @property
    def corpus(self) -> Path:
        """The readable copy of the conversations, in another out_dir where one is given."""
        return Path("data" if Path(self.out_dir) == Path("out") else self.out_dir) / "ft_corpus.txt"

    @property
    def checkpoint(self) -> Path:
        return Path(self.out_dir) / "ckpt_ft.pt"

    @property
    def binary(self) -> Path:
        return Path(self.out_dir) / "arianna_v1_ft.bin"

    @property
    def tokenizer_bin(self) -> Path:
        """The tokenizer for llama2.c, written unless one lies beside the .model."""
        return Path(self.out_dir) / Path(self.tokenizer).with_suffix(".bin").name


def read_settings(argv: Sequence[str] | None, doc: str) -> tuple[PipelineConfig, TrainConfig, set[str]]:
    """Read the command line once: the pipeline's settings, the trainer's, and the names of the flags.

    `doc` begins the help.
    """
    kinds, text = [PipelineConfig, TrainConfig], f"{doc}{TRAINER_HELP}"
    flags = config.read_flags(kinds, argv, text, ALIASES, "conversations", ELSEWHERE)
    cfg = config.build(PipelineConfig, flags)
    return cfg, trainer_settings(cfg, flags), set(flags)


def trainer_settings(cfg: PipelineConfig, flags: Mapping[str, Any]) -> TrainConfig:
    """The trainer's settings: the pipeline's files, then the preset, then the flags, which win."""
    run, own = cfg.run, {field.name for field in dataclasses.fields(PipelineConfig)}
    folders = {"data_dir": str(run / "data"), "base_text_dir": str(run / "base_text"), "out_dir": str(run)}
    fixed = TrainConfig(init_from="resume", base=cfg.base, tokenizer=cfg.tokenizer, **folders)
    theirs = {name: value for name, value in flags.items() if name not in own}
    with config.usage_errors(ValueError):
        return replace(fixed, **PRESETS[cfg.preset] | theirs)


def trainer_command(trainer: TrainConfig) -> list[str]:
    """The command of the trainer: its recipe, and every other setting that is not the default."""
    recipe = {"init_from": "resume", "learning_rate": trainer.learning_rate, "max_iters": trainer.max_iters}
    flags = [f"--{name}={value}" for name, value in recipe.items()]
    flags += [flag for flag in config.to_flags(trainer) if flag[2:].split("=")[0] not in recipe]
    return [sys.executable, str(ROOT / "train_arianna.py"), *flags]


def paths(cfg: PipelineConfig) -> dict[str, str | None]:
    """The job's files as they are typed; the report and the commands that are told at the end name them."""
    inputs = {"conversations": cfg.conversations, "base": cfg.base, "tokenizer": cfg.tokenizer}
    outputs = {"checkpoint": str(cfg.checkpoint), "binary": str(cfg.binary)}
    return inputs | {"base_text": cfg.known_text} | outputs


def check_files(cfg: PipelineConfig) -> None:
    """Raise UsageError if an output would replace an input, or a file that no run of this command made."""
    inputs = [cfg.conversations, cfg.base, cfg.tokenizer, cfg.known_text]
    for path in filter(None, inputs):
        check_name(path)
    outputs = [cfg.checkpoint, cfg.binary, cfg.corpus, cfg.tokenizer_bin, cfg.run]
    is_ours = any(Path(cfg.out_dir).glob(f"{cfg.run.name}*/{config.SETTINGS_FILE}"))
    ours = outputs if is_ours else ()
    # the readable copy of the conversations may be left out, and the room for a run is checked with it
    check_outputs(outputs, inputs, cfg.force, ours, instead="another --out_dir", writable=False)
