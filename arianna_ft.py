"""Fine-tune a small llama2.c model on conversations, overnight, and say in the morning whether it got better.

    python arianna_ft.py                                      # the whole job on the files that are here
    python arianna_ft.py --conversations=data/mine.jsonl      # on your own
    python arianna_ft.py --dry_run                            # look first: nothing is written

Checks everything, writes the conversations as text and as token shards, lets train_arianna.py train, takes the checkpoint
with the best held-out answers, and exports it for llama2.c. Stop it at any time; the same command carries on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arianna.corpus import conversations
from arianna.system import config, environment, processes, settings_file
from arianna.system.files import remove_leftovers, write_atomic
from arianna.training import dashboards, presets
from arianna.training.settings import TrainConfig

if TYPE_CHECKING:  # torch and all that needs it come after the conversations have been checked
    from arianna.corpus import encoding, shards
    from arianna.scoring.choose import Choice, Point
    from arianna.training.state import Progress
    from model import Transformer
    from tokenizer import Tokenizer

CORPUS = Path("data/ft_corpus.txt")
KILLED = 128 + 9  # exit code after SIGKILL
SHIPPED_BASE, ITS_PROSE = (
    "out/ckpt_v1_base.pt",
    "data/arianna_corpus.txt",
)  # of the prose, the base was trained on all but the part held out
LARGE = 64 << 20  # bytes of a file of conversations that is prepared part by part
PREFLIGHT_ROWS = 16  # scored of each side before the run
ALIASES = {"iterations": "max_iters", "lr": "learning_rate"}
NOT_KEPT = ("fresh", "dry_run", "data_dir", "base_text_dir")  # settings of one start, and folders that follow from out_dir
TRAINER_HELP = """
Settings may also stand in a file, --config=my.toml, as max_iters = 300; flags win over it. Each run writes its own, out/ft/config.toml.

Any flag of train_arianna.py works here too and is passed on. The most used:
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
    """The pipeline's own settings; the trainer's are declared in train_arianna.py alone."""

    conversations: str = "data/arianna_conversations.jsonl"  # the file of conversations, one a line
    base: str = SHIPPED_BASE  # the model to start from: a .pt, a llama2.c .bin, a .gguf or a Hugging Face folder; never written
    tokenizer: str = "data/tok4096.model"  # the tokenizer that the base was trained with
    base_text: str | None = None  # text (file or folder) that the base knows, for forgetting; for the shipped base, Arianna's prose
    out_dir: str = "out"  # folder for all that is written
    max_forgetting: float = 0.10  # rise of the loss on base text that is allowed, nats a token; beyond it weights are blended
    blend: float | None = None  # share of the tuned weights in the result, 0 to 1, instead of what the guard chooses
    preset: Literal["gentle", "best"] = "gentle"  # best: what docs/defaults.md found best; flags given beside it win over it
    fresh: bool = False  # begin anew; the old run's folder ft becomes ft-1
    report: bool = True  # score base and result by what they write, and make the morning report (a minute or two)
    dry_run: bool = False  # check everything, time a step, write nothing

    def __post_init__(self) -> None:
        if not 0 <= self.max_forgetting < math.inf:
            raise ValueError(f"max_forgetting is {self.max_forgetting}; it must be a number of at least 0")
        if self.blend is not None and not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend}; it must be from 0 (the base) to 1 (the tuned model)")

    @property
    def known_text(self) -> str | None:
        """Real text that the base knows, if there is any."""
        return self.base_text or (ITS_PROSE if self.base == SHIPPED_BASE and Path(ITS_PROSE).is_file() else None)

    @property
    def run(self) -> Path:
        return Path(self.out_dir) / "ft"

    @property
    def checkpoint(self) -> Path:
        return Path(self.out_dir) / "ckpt_ft.pt"

    @property
    def binary(self) -> Path:
        return Path(self.out_dir) / "arianna_v1_ft.bin"


@dataclass(frozen=True)
class Job:
    """All that is known before the first step."""

    pipeline: PipelineConfig
    trainer: TrainConfig
    base: Transformer
    tokenizer: Tokenizer
    large: shards.Plan | None  # conversations that are too many for memory
    files: dict[str, bytes]  # to be written into the run's folder
    progress: Progress | None  # of a run that is there already


def main(argv: list[str] | None = None) -> int:
    """The whole job; a signal ends it with 128 + its number. Whatever is half done then is not there, and made again."""
    try:
        with processes.stoppable():
            return whole_job(argv)
    except processes.StoppedError as stopped:
        say("stopped; the same command goes on from here")
        return stopped.exit_code


def whole_job(argv: list[str] | None) -> int:
    description = f"{__doc__}{TRAINER_HELP}"
    words = settings_file.expand(argv, [PipelineConfig, TrainConfig], ALIASES)
    pipeline, rest = config.parse_known(PipelineConfig, words, description, prog="arianna_ft.py")
    trainer = trainer_config(pipeline, rest)
    dashboards.check(trainer)
    found = read_conversations(pipeline)
    try:
        job = preflight(pipeline, trainer, found)
        if pipeline.dry_run:
            return dry_run(job)
        with processes.lock(Path(pipeline.out_dir), "arianna_ft"):
            for folder in (CORPUS.parent, Path(pipeline.out_dir), *(pipeline.run / name for name in ("", "data", "base_text"))):
                remove_leftovers(folder, shared=True)
            prepare(job, found)
            code = train(job)
            return finish(job) if code == 0 else code
    except ValueError as error:
        raise config.UsageError(str(error)) from None
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


def read_conversations(pipeline: PipelineConfig) -> conversations.Found | shards.Found:
    """All conversations, or what there is to know of a file that is too large for memory."""
    try:
        if Path(pipeline.conversations).is_file() and Path(pipeline.conversations).stat().st_size > LARGE:
            from arianna.corpus import shards

            return shards.recall(pipeline.conversations, pipeline.run / "data") or shards.examine(pipeline.conversations, say)
        return conversations.read(pipeline.conversations)
    except (OSError, ValueError) as error:
        raise config.UsageError(str(error)) from None


def preflight(pipeline: PipelineConfig, trainer: TrainConfig, found: conversations.Found) -> Job:
    """Read every input, say what was found, and refuse what cannot work before anything is written."""
    small = isinstance(found, conversations.Found)
    halves = conversations.split(found.conversations) if small else ()
    from arianna import formats
    from arianna.corpus import encoding, shards
    from arianna.scoring import base_text
    from arianna.system import resources
    from arianna.system.files import sha256
    from arianna.training import state
    from tokenizer import Tokenizer

    refuse_overwriting(pipeline)
    try:
        tokenizer = Tokenizer(pipeline.tokenizer)
        base = formats.open_model(pipeline.base)
    except OSError as error:
        raise config.UsageError(str(error)) from None
    tokenizer.check_fits(base.args.vocab_size, pipeline.base)
    formats.check_tokenizer(pipeline.base, tokenizer)
    contexts = (trainer.max_seq_len or base.args.max_seq_len, base.args.max_seq_len)
    folders: dict[str, dict[str, bytes]] = {}
    if small:
        folders["data"], prepared = encoding.prepare_conversations(*halves, tokenizer, *contexts)
        describe(pipeline, found, prepared, contexts[0])
    large = None if small else shards.Plan(found, pipeline.tokenizer, contexts)
    if pipeline.fresh or not (pipeline.run / "ckpt.pt").exists():  # else the trainer looks when it goes on
        size = sum(map(len, folders["data"].values())) if small else Path(pipeline.conversations).stat().st_size  # a little less
        results = 2 * 4 * sum(p.numel() for p in base.parameters())
        resources.check_run(replace(trainer, fresh=True), base, trainer.nproc, results + size)
    if not pipeline.dry_run:
        old = Path("nowhere") if pipeline.fresh else pipeline.run / "base_text"
        folders["base_text"] = base_text.files(base, tokenizer, old, pipeline.known_text, trainer.replay > 0)
    files = {f"{folder}/{name}": content for folder, named in folders.items() for name, content in named.items()}
    inputs = {"base": sha256(pipeline.base)} | {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    inputs |= hashes(large, pipeline.run) if large and not pipeline.fresh else {}
    progress = None if pipeline.fresh or pipeline.dry_run else state.check_folder(trainer, inputs)
    return Job(pipeline, trainer, base, tokenizer, large, files, progress)


def hashes(large: shards.Plan, run: Path) -> dict[str, str]:
    """Those of shards that are made already. Raises UsageError if a run was started on others."""
    from arianna.training import run_folder

    if large.is_made(run / "data"):
        return run_folder.hash_inputs(None, {"data": str(run / "data")})
    if (run / run_folder.NEWEST).exists():
        raise config.UsageError(
            f"{run} holds a run on other conversations, or with another tokenizer or context. Give the old ones to go on, "
            "--fresh to begin anew (the old folder is kept), or another --out_dir."
        )
    return {}


def trainer_command(pipeline: PipelineConfig, trainer: TrainConfig) -> list[str]:
    """train_arianna.py with all its settings, through torchrun where there are several processes."""
    here = Path(__file__).parent
    flags = [*flags_of(presets.PRESETS["gentle"]), *config.to_flags(trainer)]
    return [sys.executable, str(here / "train_arianna.py"), *flags]


def trainer_config(pipeline: PipelineConfig, rest: list[str]) -> TrainConfig:
    """The trainer's settings: what the job asks for, then what the user gave."""
    folders = {"data_dir": pipeline.run / "data", "base_text_dir": pipeline.run / "base_text", "out_dir": pipeline.run}
    own = [f"--{name}={path}" for name, path in {**folders, "base": pipeline.base, "tokenizer": pipeline.tokenizer}.items()]
    words = [*flags_of(presets.PRESETS[pipeline.preset]), *rest, *own]
    trainer, unknown = config.parse_known(TrainConfig, words, None, ALIASES, prog="arianna_ft.py")
    if unknown:
        config.refuse_unknown(unknown, [PipelineConfig, TrainConfig], ALIASES)
    return trainer


def flags_of(settings: dict[str, object]) -> list[str]:
    """A recipe as the trainer's flags: a fine-tune, with these settings."""
    return ["--init_from=resume", *(f"--{name}={value}" for name, value in settings.items())]


def refuse_overwriting(pipeline: PipelineConfig) -> None:
    """Raise UsageError if an output would be written over an input."""
    inputs = [Path(p).resolve() for p in (pipeline.conversations, pipeline.base, pipeline.tokenizer)]
    for out in (pipeline.checkpoint, pipeline.binary, CORPUS):
        if any(path in inputs for path in (out.resolve(), *out.resolve().parents)):  # a base may be a folder
            raise config.UsageError(f"{out} would be written, but it is an input of this run or in one; give another --out_dir.")
    if any(pipeline.run.resolve() in i.parents for i in inputs):
        raise config.UsageError(f"an input lies in {pipeline.run}, which this run writes; give another --out_dir.")


def describe(pipeline: PipelineConfig, found: conversations.Found | shards.Found, prepared: encoding.Prepared, context: int) -> None:
    """The preflight's lines about the conversations."""
    say(f"{pipeline.conversations}: {found.number} conversations ({found.kind}), {prepared.held_out} of them held out")
    longer = f", {prepared.longer} conversations longer than the context of {context} going on in a further one" if prepared.longer else ""
    say(f"  {prepared.tokens:,} tokens in {prepared.rows} rows{longer}")
    notes = {
        "lines of content began with Q: or A: and were joined to the line before": found.joined,
        "conversations stand more than once": found.duplicates,
        "quotes, dashes and ellipses became plain ones": prepared.typographic,
        f"characters ({prepared.spelled}) are spelled in bytes, which llama2.c's run does not print": prepared.bytes_spelled,
        f"unknown keys were left unread: {', '.join(found.unread)}": len(found.unread),
    }
    for note, count in notes.items():
        if count:
            say(f"  {count} {note}")


def dry_run(job: Job) -> int:
    """Score the base and time a step on the prepared rows; what that needs on disk is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(job.files, Path(folder))
        if job.large:
            describe(job.pipeline, job.large.found, job.large.make(Path(folder) / "data", say, most=1), job.large.contexts[0])
        say(plan(job, Path(folder)))
    say("dry run: nothing was written")
    return 0


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write the files that are not there yet."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)


def plan(job: Job, folder: Path) -> str:
    """Score the base, time a step on a copy of it: what will run, on what, for how long, and how much disk."""
    import train_arianna
    from arianna import formats
    from arianna.system import resources
    from arianna.training import devices

    cfg = replace(job.trainer, data_dir=str(folder / "data"), base_text_dir=str(folder / "base_text"))
    same = cfg.max_seq_len in (None, job.base.args.max_seq_len)
    base = job.base if same else formats.open_model(cfg.base, cfg.max_seq_len)  # in the context that is trained: its rows are longer
    told = about_base(cfg, base)
    seconds, task = train_arianna.time_steps(cfg, base)
    parameters = sum(p.numel() for p in job.base.parameters())
    disk = resources.bytes_on_disk(parameters, cfg.max_iters // cfg.eval_interval + 2) + 2 * 4 * parameters  # the run and its result
    return (
        f"{told}\n{cfg.max_iters} iterations = {task.epochs(cfg.max_iters):.1f} epochs of your data, peak rate {cfg.peak:g}, "
        f"on {devices.pick_device(cfg.device)}: about {seconds * cfg.max_iters / 60:.0f} minutes "
        f"and {resources.megabytes(disk)} in {job.pipeline.out_dir}"
    )


def about_base(cfg: TrainConfig, base: Transformer) -> str:
    """The base's size and its loss on held-out answers, with a word if it looks memorised."""
    from arianna.reporting import verdict
    from arianna.scoring.losses import answer_loss
    from arianna_data import Rows

    rows = (Rows(cfg.data_dir, split, base.args.max_seq_len, base.args.vocab_size) for split in ("val", "train"))
    held_out, trained = (answer_loss(base, r, PREFLIGHT_ROWS).loss for r in rows)
    size = f"{sum(p.numel() for p in base.parameters()) / 1e6:.2f} million parameters"
    told = [f"{cfg.base}: {size}; held-out answers {held_out:.3f} nats a token"]
    return "\n".join(told + [word for word in [verdict.about_base(held_out, trained, base.args.vocab_size)] if word])


def prepare(job: Job, found: conversations.Found) -> None:
    """Write the readable corpus and the token shards; the trainer's folder begins anew with --fresh."""
    from arianna.corpus import parallel
    from arianna.training import run_folder

    if job.pipeline.fresh:
        run_folder.set_aside(job.pipeline.run)
    settings = settings_file.text_of(job.pipeline, job.trainer, without=NOT_KEPT).encode()
    if not job.large and job.progress is None:
        parallel.clear(job.pipeline.run / "data")  # another preparation's
    write_files(job.files | {settings_file.NAME: settings}, job.pipeline.run)
    if job.large:
        describe(job.pipeline, found, job.large.make(job.pipeline.run / "data", say), job.large.contexts[0])
    else:
        write_corpus(found)
    if job.progress is None:
        say(plan(job, job.pipeline.run))


def write_corpus(found: conversations.Found) -> None:
    try:
        write_files({CORPUS.name: conversations.corpus_text(found.conversations).encode()}, CORPUS.parent)
    except OSError as error:
        say(f"{error.strerror}; the readable copy is left out")


def train(job: Job) -> int:
    """Let train_arianna.py do the steps in a process of its own; returns its exit code."""
    from arianna.reporting import scored_run

    pipeline, finished = job.pipeline, job.progress is not None and job.progress.finished
    files = (pipeline.conversations, pipeline.base, pipeline.tokenizer, str(pipeline.checkpoint), str(pipeline.binary), pipeline.known_text)
    if finished:
        say(f"{pipeline.run} is trained: {job.progress.step} iterations")
        return 0
    notes = [presets.NOTE] if pipeline.preset == "gentle" else []  # for the report
    scored_run.remember_job(pipeline.run, scored_run.Paths(*files), job.progress.step if job.progress else 0, notes)
    code = processes.run_child(trainer_command(pipeline, job.trainer))
    if code == KILLED:
        say("training was killed from outside, for want of memory perhaps; the same command goes on from here")
    return code


def finish(job: Job) -> int:
    """Choose, blend, export, verify, report."""
    from arianna.formats.write import update_model

    choice, model = choose_model(job)
    update_model(model, job.pipeline.checkpoint, "checkpoint")
    update_model(model, job.pipeline.binary, "llama2c")
    write_tokenizer_bin(job)
    say("")
    verdict = morning_report(job.pipeline.run, choice) if job.pipeline.report else short_verdict(job.pipeline, choice)
    say(verdict)
    dashboards.conclude(job.trainer, job.pipeline.run, verdict)
    say(closing_words(job.pipeline))
    return 0


def morning_report(run: Path, choice: Choice) -> str:
    """The verdict of the report, which is made unless it is there and of this choice."""
    from arianna import report

    try:
        facts = json.loads((run / "report.json").read_bytes())
        fits = facts["choice"] == dataclasses.asdict(choice) and (run / "report.html").exists() and (run / "report.md").exists()
    except (OSError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        say("scoring what base and result write, for the report ...")
        facts = report.make(run)
    return report.words_of(facts)


def choose_model(job: Job) -> tuple[Choice, Transformer]:
    """The run's result. Blends are scored only where the best checkpoint forgets too much, and once."""
    from arianna import formats
    from arianna.scoring import choose

    run, settings = job.pipeline.run, {"max_forgetting": job.pipeline.max_forgetting, "blend": job.pipeline.blend}
    points = choose.evaluations(run)
    best = choose.best_checkpoint(points)
    tuned = formats.open_model(run / f"ckpt_{best.step:06d}.pt")
    base = formats.open_model(job.pipeline.base, tuned.args.max_seq_len)
    choice = choose.recall(settings, run)
    if choice is None or choice.best != best:
        choice = choose.choose(points, **settings, score=lambda point, share: score_blend(job, base, tuned, point, share))
        choose.remember(choice, settings, run)
    return choice, choose.blended(base, tuned, choice.used.blend)


def score_blend(job: Job, base: Transformer, tuned: Transformer, point: Point, share: float) -> Point:
    """What a checkpoint's evaluation would have said of a blend."""
    import train_arianna
    from arianna.scoring import choose

    blend = train_arianna.score_point(job.trainer, choose.blended(base, tuned, share), point.step, share)
    texts = ", ".join(f"{loss:.4f}" for loss in blend.base_text.values())
    say(f"blend of {share:.0%}: held-out answers {blend.answer_loss:.4f}, base text {texts}")
    return blend


def write_tokenizer_bin(job: Job) -> None:
    """llama2.c needs tokenizer.bin beside the model; one that is there is left alone."""
    path = Path(job.pipeline.tokenizer).with_suffix(".bin")
    try:
        if not path.exists():
            write_atomic(path, job.tokenizer.to_bin())
    except OSError as error:
        say(f"{error.strerror}; llama2.c's run needs it: make it with tokenizer.py on a copy of {job.pipeline.tokenizer}")


def short_verdict(pipeline: PipelineConfig, choice: Choice) -> str:
    """Losses alone, without an interval and without a look at what the models write."""
    base, used = choice.base, choice.used
    change = f"held-out answers went from {base.answer_loss:.3f} to {used.answer_loss:.3f} nats a token"
    forgotten = f"base text rose by {used.forgetting(base):.3f}"
    if used.answer_loss < base.answer_loss:
        return f"Lower: {change}; {forgotten}. Use {pipeline.checkpoint} (iteration {used.step}, {used.blend:.0%} of the tuned weights)."
    return f"Not lower: {change} at best (iteration {used.step}); {forgotten}. Keep {pipeline.base}."


def closing_words(pipeline: PipelineConfig) -> str:
    """The files, and what to type next."""
    report = f"\n{pipeline.run / 'report.html'}    the morning report" if pipeline.report else ""
    return f"""
{pipeline.checkpoint}    the model
{pipeline.binary}    the same for llama2.c, read back and equal{report}
{pipeline.run / "log.jsonl"}    losses by iteration

Next:
  python sample.py --checkpoint={pipeline.checkpoint} --compare={pipeline.base} --question="What is resonance?"
  python sample.py --checkpoint={pipeline.checkpoint} --chat
  ./run {pipeline.binary} -z {Path(pipeline.tokenizer).with_suffix(".bin")} -n 0 -t 0.8 -i $'Q: What is resonance?\\nA:'"""


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    environment.prepare(lasting=True)
    config.run_main(lambda argv: processes.ended(main(argv)))
