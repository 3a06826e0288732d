"""Fine-tune a small llama2.c model on conversations, overnight, and say in the morning whether it got better.

    python arianna_ft.py                                      # the whole job on the files that are here
    python arianna_ft.py --conversations=data/mine.jsonl      # on your own
    python arianna_ft.py --dry_run                            # look first: nothing is written

Checks everything, writes the conversations as text and as token shards, lets train_arianna.py train, takes
the checkpoint with the best held-out answers, and exports it for llama2.c. Stop it at any time; the same
command carries on.
"""

from __future__ import annotations

if __name__ == "__main__":  # the Python, its packages and variables, before anything that needs them
    from arianna.system import environment

    environment.prepare(lasting=True)

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from arianna import search
from arianna.corpus import prepare
from arianna.corpus.prepare import Survey
from arianna.formats import check_tokenizer, open_model
from arianna.reporting import printed
from arianna.scoring import choose as choosing
from arianna.system import config, processes
from arianna.system.files import remove_leftovers, write_missing
from arianna.system.rollback import rolled_back
from arianna.system.visible import visible
from arianna.training import dashboards
from arianna.training.job import NOT_KEPT, PipelineConfig, check_files, paths, read_settings, trainer_command
from arianna.training.settings import PRESET_NOTE, TrainConfig

if TYPE_CHECKING:  # torch and all that needs it come after the conversations have been checked
    from arianna.scoring.choose import Choice, Point
    from arianna.training.state import Progress
    from model import Transformer
    from tokenizer import Tokenizer

REFUSED, KILLED = 2, 128 + 9  # the trainer's exit code after a sentence of its own, and after SIGKILL


@dataclass(frozen=True)
class Job:
    """Everything that is known before the first of the six steps."""

    cfg: PipelineConfig
    trainer: TrainConfig
    survey: Survey
    base: Transformer
    tokenizer: Tokenizer
    base_text: dict[str, bytes]  # files by name
    progress: Progress | None  # None for a new run

    @property
    def contexts(self) -> tuple[int, int]:
        """The most tokens of a row to train on, and of one held out: base and result are scored alike."""
        known = self.base.args.max_seq_len
        return self.trainer.max_seq_len or known, known

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.base.parameters())


def main(argv: list[str] | None = None) -> int:
    """Do the whole job; returns its exit code, 128 + n after signal n. The next start goes on."""
    try:
        with processes.stoppable():
            return whole_job(argv)
    except processes.StoppedError as stopped:
        say("stopped; the same command goes on from here")
        return stopped.exit_code


def whole_job(argv: list[str] | None) -> int:
    """Check all that can be checked before torch is imported, then go through the pipeline."""
    cfg, trainer, typed = read_settings(argv, __doc__)
    dashboards.check(trainer)
    if cfg.hours:
        search.check(cfg.hours)
    with config.usage_errors(OSError, ValueError):
        check_files(cfg)
        survey = prepare.survey(cfg.conversations, say, None if cfg.fresh else cfg.run / "data")
    try:
        with config.usage_errors(ValueError):
            return pipeline(cfg, trainer, survey, typed)
    except OSError as error:
        print(config.in_words(error), file=sys.stderr)
        return 1


def pipeline(cfg: PipelineConfig, trainer: TrainConfig, survey: Survey, typed: set[str]) -> int:
    """Go through the steps in their order; returns the exit code."""
    job = preflight(cfg, trainer, survey)
    if cfg.dry_run:
        return dry_run(job)
    with processes.lock(Path(cfg.out_dir), "arianna_ft"):
        with begun(job):
            convert(job)
            tokenize(job, cfg.run)
            code = find_settings(job, typed) if cfg.hours else train(job)
        if code:
            return code
        choice, model = choose(job)
        export(job, model)
        return report(job, choice)


# ---- the steps ----


def preflight(cfg: PipelineConfig, trainer: TrainConfig, survey: Survey) -> Job:
    """Read every input, say what was found, and refuse what cannot work before anything is written."""
    say(*printed.survey_lines(survey))
    from arianna.scoring import base_text
    from arianna.training import devices, needs, resumption
    from tokenizer import Tokenizer

    with config.usage_errors(OSError):
        tokenizer, base = Tokenizer(cfg.tokenizer), open_model(cfg.base)
    tokenizer.check_fits(base.args.vocab_size, cfg.base)
    check_tokenizer(cfg.base, tokenizer)
    devices.pick_device(trainer.device)
    known = Path("nowhere") if cfg.fresh else cfg.run / "base_text"
    texts = base_text.files(base, tokenizer, known, cfg.known_text, trainer.replay > 0 or bool(cfg.hours))
    job = Job(cfg, trainer, survey, base, tokenizer, texts, None)
    if not (cfg.fresh or cfg.hours):  # a search looks at its own folder
        job = replace(job, progress=resumption.find_progress(trainer, survey, job.contexts, texts))
    if job.progress is None:
        results = 2 * 4 * job.parameters + 2 * Path(cfg.conversations).stat().st_size
        needs.check(replace(trainer, fresh=True), base, trainer.nproc, results)
    return job


def convert(job: Job) -> None:
    """Write the conversations as text, one behind the other, to be read by people."""
    cfg = job.cfg
    settings = config.text_of(cfg, job.trainer, without=NOT_KEPT).encode()
    write_missing({config.SETTINGS_FILE: settings}, cfg.run)  # first: it shows whose folder this is
    if job.progress is None or not cfg.corpus.exists():
        try:
            prepare.write_corpus(job.survey, cfg.corpus)
        except OSError as error:
            say(f"{error.strerror}; the readable copy is left out")


def tokenize(job: Job, folder: Path) -> None:
    """Write the token shards: of the conversations to train on and held out, and of the base text."""
    prepared = prepare.write_shards(job.survey, job.cfg.tokenizer, job.contexts, folder / "data", say)
    say(*printed.prepared_lines(prepared, job.contexts[0]))
    write_missing(job.base_text, folder / "base_text")


def train(job: Job) -> int:
    """Let train_arianna.py do the steps in a process of its own; returns its exit code."""
    run, progress = job.cfg.run, job.progress
    if progress is not None and progress.finished:
        say(f"{run} is trained: {progress.step} iterations")
        return 0
    if progress is None:
        say(*plan(job, run))
    remember(job.cfg, progress.step if progress else 0, [PRESET_NOTE] if job.cfg.preset == "gentle" else [])
    code = processes.run_child(trainer_command(job.trainer))
    if code == REFUSED:
        raise SystemExit(code)  # it has said why
    if code == KILLED:
        reason = "perhaps for lack of memory"
        say(f"training was killed from outside, {reason}; the same command goes on from here")
    return code


def find_settings(job: Job, typed: set[str]) -> int:
    """Search settings for hours, then train with the best; those that the person has given stay."""
    cfg = job.cfg
    wanted = search.Wanted(cfg.hours, cfg.workers, cfg.storage, cfg.max_forgetting)
    remember(cfg, 0, [])
    training = prepare.iter_conversations(job.survey, held_out=False)
    return search.search(wanted, job.trainer, training, job.tokenizer, typed & set(vars(job.trainer)))


def choose(job: Job) -> tuple[Choice, Transformer]:
    """The run's result: the best checkpoint, blended with the base if it forgot too much."""
    run, limits = job.cfg.run, {"max_forgetting": job.cfg.max_forgetting, "blend": job.cfg.blend}
    points = choosing.evaluations(run)
    best = choosing.best_checkpoint(points)
    tuned = open_model(choosing.weights_of(best, run))
    base = open_model(job.cfg.base, tuned.args.max_seq_len)
    choice = choosing.recall(limits, run)
    if choice is None or choice.best != best:
        score = functools.partial(score_blend, job, base, tuned)
        choice = choosing.choose(points, **limits, score=score)
        choosing.remember(choice, limits, run)  # another start does not score the blends again
    return choice, choosing.blended(base, tuned, choice.used.blend)


def export(job: Job, model: Transformer) -> None:
    """Write the result as a checkpoint and for llama2.c, with the tokenizer that its programs need."""
    from arianna.formats.write import update_model

    update_model(model, job.cfg.checkpoint, "checkpoint", tokenizer=job.tokenizer)
    update_model(model, job.cfg.binary, "llama2c")
    beside, data = Path(job.cfg.tokenizer).with_suffix(".bin"), job.tokenizer.to_bin()
    if not (beside.is_file() and beside.read_bytes() == data):
        write_missing({job.cfg.tokenizer_bin.name: data}, job.cfg.tokenizer_bin.parent)


def report(job: Job, choice: Choice) -> int:
    """Say whether the result is better, make the morning report, and tell the files and what to type next."""
    from arianna import report as reports  # numpy comes with it

    cfg = job.cfg
    say("")
    if cfg.report:
        facts = reports.stored(cfg.run, choice)
        if facts is None:
            say("scoring what base and result write, for the report ...")
            facts = reports.make(cfg.run)
        sentence, better = reports.words_of(facts), facts["verdict"]["word"] == "better"
    else:
        sentence = printed.short_verdict(choice, str(cfg.checkpoint), cfg.base)
        better = choice.used.answer_loss < choice.base.answer_loss
    say(sentence)
    if cfg.report:
        say("", *reports.three_answers(facts).splitlines())
    dashboards.conclude(job.trainer, cfg.run, sentence)
    say(*printed.closing_lines(paths(cfg), cfg.run, better))
    return 0


# ---- what the steps are made of ----


@contextlib.contextmanager
def begun(job: Job) -> Iterator[None]:
    """A context in which a run begins or goes on; a refusal leaves all as it was, unless steps were saved."""
    cfg = job.cfg
    folders = (cfg.corpus.parent, Path(cfg.out_dir), *(cfg.run / name for name in ("", "data", "base_text")))
    for folder in folders:
        remove_leftovers(folder, shared=True)
    if cfg.fresh and cfg.run.exists():
        with processes.lock(cfg.run):  # a run that is at work there would go on writing under the old name
            pass
    with rolled_back(cfg.run, cfg.fresh, others=(cfg.corpus,), saved="ckpt*.pt") as aside:
        if aside is not None:
            say(f"the old {cfg.run} is now {aside}")
        yield


def dry_run(job: Job) -> int:
    """Score the base and time a step on prepared rows; what that needs on disk is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tokenize(job, Path(folder))
        say(*plan(job, Path(folder)))
    say("dry run: nothing was written")
    return 0


def plan(job: Job, folder: Path) -> list[str]:
    """Lines that tell what will run, from the base's score on the rows in a folder and the time of a step."""
    trainer = replace(job.trainer, data_dir=str(folder / "data"), base_text_dir=str(folder / "base_text"))
    data = folder / "data"  # the shards are written already: this reads their counts
    spelled = prepare.write_shards(job.survey, job.cfg.tokenizer, job.contexts, data, say).foreign
    from arianna.reporting import plan as plans

    return plans.plan_lines(trainer, job.base, job.contexts[0], job.cfg.out_dir, spelled)


def remember(cfg: PipelineConfig, step: int, notes: list[str]) -> None:
    """Write the job's facts for the report; training starts at this step."""
    from arianna.reporting import scored_run

    scored_run.remember_job(cfg.run, scored_run.Paths(**paths(cfg)), step, notes)


def score_blend(job: Job, base: Transformer, tuned: Transformer, point: Point, share: float) -> Point:
    """The evaluation of a blend of the base with a checkpoint; `share` is the checkpoint's."""
    import train_arianna

    blend = train_arianna.score_point(job.trainer, choosing.blended(base, tuned, share), point.step, share)
    texts = ", ".join(f"{loss:.4f}" for loss in blend.base_text.values())
    say(f"blend of {share:.0%}: held-out answers {blend.answer_loss:.4f}, base text {texts}")
    return blend


def say(*lines: str) -> None:
    for line in lines:
        print(visible(line), flush=True)


if __name__ == "__main__":
    config.run_main(lambda argv: processes.ended(main(argv)))
