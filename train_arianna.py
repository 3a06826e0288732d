"""Fine-tune or train a llama2.c model on token shards.

    python train_arianna.py --init_from=scratch --data_dir=data/tok4096 --out_dir=out/base
    python train_arianna.py --init_from=resume --base=out/ckpt_v1_base.pt --data_dir=out/ft/data --out_dir=out/ft

Writes into out_dir: ckpt.pt and ckpt_prev.pt (the two latest states, resumable), ckpt_000100.pt ... (weights at each
evaluation), log.jsonl, train.log, and config.toml: `--config=FILE` takes settings from such a file, flags win over it.
Stop it at any time; the same command carries on.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: allocator and threads read their settings at the start
    from arianna.system import environment, processes

    environment.prepare(lasting=True)
    processes.end_quietly()

import contextlib
import copy
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from arianna.corpus.encoding import TRAIN_ALL, TRAIN_ANSWERS
from arianna.formats import checkpoint
from arianna.scoring import answers, choose
from arianna.scoring.losses import evaluate_model
from arianna.system import config, environment, processes, resources, settings_file
from arianna.system.files import remove_leftovers
from arianna.training import compilation, contrast, dashboards
from arianna.training.devices import Precision, Team, pick_precision, steady_threads
from arianna.training.optimizer import make_optimizer
from arianna.training.run_folder import Log, Refused, hash_inputs, keep_settings, save_state, set_aside
from arianna.training.settings import TrainConfig, learning_rate
from arianna.training.state import State, make_teacher, new_model, start_or_continue
from arianna.training.watchdog import Watch
from arianna_data import POOL, Batch, Rows, Task
from model import ModelArgs, Transformer
from tokenizer import Tokenizer


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def train_step(state: State, batch: Batch, cfg: TrainConfig, forward, precision: Precision, team: Team) -> float:
    """One update; returns the loss before it in nats per target token. Nothing changes if loss or gradient is not finite.

    Each process computes its share of the rows; since the loss is divided by the targets of the whole batch, the sums over
    all processes are its loss and its gradient.
    """
    rate = learning_rate(cfg, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros((), device=precision.device)
    for x, y, replayed in [(*part, False) for part in batch.parts] + [(*part, True) for part in batch.replay]:
        x, y = (team.share(t, backwards=replayed).to(precision.device) for t in (x, y))
        if len(x) == 0:
            continue
        with precision():
            teacher = (state.teacher.as_teacher(x),) if replayed and state.teacher else ()
            loss = forward(x, y, batch.n_targets, *teacher)
        loss.backward()
        total += loss.detach()
    contrast.backward(state.model, batch, cfg.question_contrast, precision, team)
    team.add_up([total, *(p.grad for p in state.model.parameters())])
    norm = clip_grad_norm_(state.model.parameters(), cfg.grad_clip)
    if not (total.isfinite() and norm.isfinite()):  # clipping and AdamW would both let a NaN through
        raise FloatingPointError(
            f"step {state.step}: loss {float(total):.4g}, gradient norm {float(norm):.4g} on rows {batch.rows.tolist()}; stopped before "
            "the update, the last saved state is whole. Mostly the rate was too high: begin anew with --fresh and a lower --learning_rate."
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return float(total)


def training_rows(cfg: TrainConfig, args: ModelArgs) -> Rows:
    trained = TRAIN_ALL if cfg.loss_on == "all" else TRAIN_ANSWERS
    return Rows(cfg.data_dir, "train", args.max_seq_len, args.vocab_size, trained)


def make_task(cfg: TrainConfig, args: ModelArgs, teacher: Transformer | None = None) -> Task:
    """The batches of a run, over its memory-mapped shards. Where there is a teacher, what is replayed is in rows of its context."""
    context = (teacher.args if teacher else args).max_seq_len
    replay = Rows(cfg.base_text_dir, "train", context, args.vocab_size) if cfg.replay else None
    kind = contrast.ContrastTask if cfg.question_contrast else Task
    return kind(training_rows(cfg, args), cfg.batch_size, cfg.gradient_accumulation_steps, cfg.seed, replay, cfg.replay)


def held_out_rows(cfg: TrainConfig, args: ModelArgs) -> Rows:
    return Rows(cfg.data_dir, "val", args.max_seq_len, args.vocab_size)


def base_text_rows(cfg: TrainConfig, args: ModelArgs) -> dict[str, Rows]:
    """The held-out shards of the base text, each by its name."""
    files = sorted(Path(cfg.base_text_dir).glob("val*.bin")) if cfg.base_text_dir else []
    return {f.stem: Rows(cfg.base_text_dir, f.stem, args.max_seq_len, args.vocab_size) for f in files}


def score_point(cfg: TrainConfig, model: Transformer, step: int, share: float) -> choose.Point:
    """What an evaluation in this run says of a model, such as a blend of a checkpoint with the base."""
    texts = base_text_rows(cfg, model.args)
    score = evaluate_model(model, held_out_rows(cfg, model.args), texts, cfg.eval_rows)
    return choose.Point(step, share, score.answers.loss, score.base_text)


def time_steps(cfg: TrainConfig, base: Transformer) -> tuple[float, Task]:
    """Seconds of a usual training step from the base, by the first one and its tokens, and the task whose rows it took. Keeps nothing
    and leaves the base as it is."""
    precision, alone = pick_precision(cfg.device, cfg.dtype), Team.alone()
    model = copy.deepcopy(base).to(precision.device)
    state = State(model, make_optimizer(model, cfg), teacher=make_teacher(cfg, precision.device))
    task = make_task(cfg, model.args, state.teacher)
    batches = [task.batch(step) for step in range(POOL)]
    started = time.monotonic()
    train_step(state, batches[0], cfg, model, precision, alone)
    seconds = time.monotonic() - started
    return seconds * sum(b.tokens for b in batches) / len(batches) / batches[0].tokens, task


class Window:
    """The steps since the last line."""

    def __init__(self):
        self.total, self.steps, self.tokens, self.started = 0.0, 0, 0, time.monotonic()

    def add(self, loss: float, batch: Batch) -> None:
        self.total, self.steps, self.tokens = self.total + loss, self.steps + 1, self.tokens + batch.tokens

    @property
    def loss(self) -> float:
        return self.total / self.steps


class Run:
    """A run in its folder: what `train` does between two steps."""

    def __init__(self, cfg: TrainConfig, log: Log, team: Team, model: Transformer | None):
        self.cfg, self.log, self.team, self.folder = cfg, log, team, Path(cfg.out_dir)
        self.precision = pick_precision(team.device, cfg.dtype)
        self.device = self.precision.device
        self.inputs = hash_inputs(cfg.base, {"data": cfg.data_dir, "base_text": cfg.base_text_dir})
        self.state = start_or_continue(cfg, self.inputs, self.device, model)
        args = self.state.model.args
        self.tokenizer = Tokenizer(cfg.tokenizer) if cfg.tokenizer else None
        if self.tokenizer:
            self.tokenizer.check_fits(args.vocab_size, cfg.base or "the model")
        self.task = make_task(cfg, args, self.state.teacher)
        self.held_out = held_out_rows(cfg, args)
        self.base_text = base_text_rows(cfg, args)
        self.watch = Watch(self.stalled)
        self.saved_at = self.started_at = time.monotonic()

    def announce(self) -> None:
        cfg, state = self.cfg, self.state
        size = sum(p.numel() for p in state.model.parameters())
        on = f"{self.device} ({str(self.precision.dtype).removeprefix('torch.')})" + (
            f", {self.team.size} processes" if self.team.size > 1 else ""
        )
        self.log.say(f"{size:,} parameters on {on}, {len(self.task.rows)} rows, {len(self.held_out)} held out")
        went_on = f", going on from iteration {state.step}" if state.step else ""
        self.log.say(f"{cfg.max_iters} iterations = {self.task.epochs(cfg.max_iters):.1f} epochs{went_on}")
        if state.threads not in (None, threads := torch.get_num_threads()):
            self.log.say(f"computed with {state.threads} threads so far, now with {threads}: sums will differ in their last digits")
        if added := os.environ.get(environment.STARTED):
            self.log.say(f"set in the environment: {added}")

    def forward(self) -> Callable:
        """The forward pass of the steps, compiled or not; which of both is settled once."""
        cfg, state, size = self.cfg, self.state, self.cfg.batch_size * self.cfg.gradient_accumulation_steps
        tokens = cfg.max_iters * size * int(self.task.rows.lengths.mean())
        settings = (cfg.compile, state.compiled, tokens)
        forward, state.compiled = compilation.choose(state.model, *settings, self.task, self.precision, self.team, self.log.say)
        return forward

    def evaluate(self, train_loss: float) -> None:
        state, started = self.state, time.monotonic()
        found = evaluate_model(state.model, self.held_out, self.base_text, self.cfg.eval_rows)
        score, base_text = found.answers, found.base_text
        better = score.loss < state.best_loss
        if better:
            state.best_loss, state.best_step = score.loss, state.step
        told = "".join(f", base text ({name.removeprefix('val_')}) {loss:.4f}" for name, loss in base_text.items())
        trained = f"train loss {train_loss:.4f}, " if state.step else ""
        self.log.say(f"step {state.step}: {trained}val loss {score.loss:.4f}{told}{' (best)' if better and state.step else ''}")
        entry = {"val_loss": score.loss, "terminator_loss": number(score.terminator_loss)} | ({"base_text": base_text} if base_text else {})
        if self.tokenizer and self.team.leads:
            entry["samples"] = answers.glimpse(state.model, self.tokenizer)
            for question, answer in entry["samples"].items():
                self.log.say(f"    {question} {answer}")
        self.log.record(step=state.step, **entry, eval_seconds=time.monotonic() - started)
        if self.team.leads:
            checkpoint.save(self.folder / f"ckpt_{state.step:06d}.pt", checkpoint.pack(state.model, iter_num=state.step))

    def save(self) -> None:
        """Write the state; the one before it becomes ckpt_prev.pt."""
        if not self.team.leads:
            return
        self.state.seconds += time.monotonic() - self.started_at
        self.started_at = time.monotonic()
        self.log.sync()
        save_state(self.folder, self.state.pack(self.cfg, self.inputs))
        self.saved_at = time.monotonic()

    def loop(self, stop: processes.Stop) -> None:
        """Steps, lines, evaluations and saves until max_iters or a signal."""
        cfg, state, forward = self.cfg, self.state, self.forward()
        if state.step == 0:
            self.evaluate(math.nan)
        window = Window()
        for batch in self.task.iter_batches(state.step):
            if self.team.any(state.finished(cfg) or stop.asked):
                break
            with self.watch(state.step):
                window.add(train_step(state, batch, cfg, forward, self.precision, self.team), batch)
            due = state.step % cfg.eval_interval == 0 or state.step == cfg.max_iters
            if due or state.step % cfg.log_interval == 0:
                self.line(window)
                if due:
                    self.evaluate(window.loss)
                window = Window()
            if due or time.monotonic() - self.saved_at > cfg.save_minutes * 60:
                self.save()
        if not state.finished(cfg):
            self.save()

    def stalled(self, step: int, seconds: float, usual: float) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.log.say(f"{now}: iteration {step + 1} has taken {seconds:.0f} s so far, usually {usual:.1f} s: the machine slept or is busy")
        self.log.record(stall=step + 1, seconds=seconds, usual=usual, time=now)

    def line(self, window: Window) -> None:
        step, rate = self.state.step, learning_rate(self.cfg, self.state.step - 1)
        seconds = time.monotonic() - window.started
        milliseconds, speed = 1000 * seconds / window.steps, window.tokens / seconds
        left = (self.cfg.max_iters - step) * milliseconds / 60_000
        self.log.say(f"{step} | loss {window.loss:.4f} | lr {rate:.2e} | {milliseconds:.2f}ms | {speed:,.0f} tok/s | {left:.0f}m left")
        self.log.record(step=step, loss=window.loss, lr=rate, step_ms=milliseconds, tokens_per_second=speed)


@dataclass(frozen=True)
class Result:
    step: int
    best_step: int
    best_loss: float
    exit_code: int  # 0, or 130/143 when a signal ended the run


def train(cfg: TrainConfig) -> Result:
    """Do or finish a run in cfg.out_dir, alone or as one of torchrun's processes. Raises config.UsageError for what the user must mend."""
    dashboards.check(cfg)
    team, folder = Team(cfg.device), Path(cfg.out_dir)
    if cfg.batch_size % team.size:
        raise Refused(f"batch_size is {cfg.batch_size}, which {team.size} processes cannot share evenly; give a multiple")
    steady_threads()
    model = new_model(cfg)
    if team.leads:
        if model is not None:
            resources.check_run(cfg, model, team.size)
        if cfg.fresh:
            set_aside(folder)
    with processes.lock(folder) if team.leads else contextlib.nullcontext(), processes.stop_signals() as stop:
        if team.leads:
            remove_leftovers(folder)
        team.wait()
        log = Log(folder, speaks=team.leads)
        try:
            return do(Run(cfg, log, team, model), stop)
        finally:
            log.close()
            team.leave()


def do(run: Run, stop: processes.Stop) -> Result:
    """Bring a run to its end or to a stop, and say which."""
    state, cfg, log = run.state, run.cfg, run.log
    if state.finished(cfg):
        log.say(f"{run.folder} is done: {state.step} iterations, best {state.best_loss:.4f} at {state.best_step}; nothing to do")
    else:
        if run.team.leads:
            keep_settings(run.folder, cfg)
            log.boards = dashboards.Dashboards(cfg, run.folder)
        run.announce()
        with run.watch, environment.awake(log.say) if run.team.leads else contextlib.nullcontext():
            run.loop(stop)
    code = 0 if state.finished(cfg) else stop.exit_code
    if code:
        log.say(f"stopped at iteration {state.step}, all saved; the same command goes on from here")
    return Result(state.step, state.best_step, state.best_loss, code)


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(TrainConfig, settings_file.expand(argv, [TrainConfig]), __doc__)
    if cfg.nproc > 1 and "RANK" not in os.environ:
        return processes.launch(cfg.nproc, __file__, sys.argv[1:] if argv is None else argv)
    processes.watch_parent()
    try:
        return train(cfg).exit_code
    except ValueError as error:
        raise config.UsageError(str(error)) from None
    except (FloatingPointError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    config.run_main(main)
