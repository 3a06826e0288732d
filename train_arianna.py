"""Fine-tune or train a llama2.c model on token shards.

    python train_arianna.py --init_from=scratch --data_dir=data/tok4096 --out_dir=out/base
    python train_arianna.py --init_from=resume --base=out/ckpt_v1_base.pt \\
        --data_dir=out/ft/data --out_dir=out/ft

Writes into out_dir: ckpt.pt and ckpt_prev.pt (the two latest states, resumable), ckpt_000100.pt ... (weights
at each evaluation), log.jsonl, train.log, and config.toml: `--config=FILE` takes settings from such a file,
flags win over it. Stop it at any time; the same command carries on.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: allocator and threads read their settings at the start
    from arianna.system import environment

    environment.prepare(lasting=True)

    from arianna.system import processes

    processes.end_quietly()

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from arianna import formats
from arianna.formats import checkpoint
from arianna.scoring import answers, choose
from arianna.scoring.losses import evaluate_model
from arianna.system import config, environment, processes
from arianna.system.files import remove_leftovers
from arianna.training import compilation, contrast, dashboards, needs
from arianna.training.devices import Precision, ProcessGroup, has_bfloat16, pick_precision, steady_threads
from arianna.training.log import Log, Window, finite_or_none
from arianna.training.run_folder import (
    RefusedError,
    begun,
    hash_inputs,
    keep_settings,
    note_tokenizer,
    save_state,
)
from arianna.training.settings import TrainConfig, learning_rate
from arianna.training.state import State, make_teacher, new_model, start_or_continue
from arianna.training.task import base_text_rows, held_out_rows, make_task, tokens_of
from arianna.training.timing import CLEARLY, chooses, time_formats
from arianna.training.watchdog import Watch
from arianna_data import Batch, Task
from model import Transformer
from tokenizer import Tokenizer

# ---- one step ----


def train_step(
    state: State, batch: Batch, cfg: TrainConfig, forward: Callable, precision: Precision, group: ProcessGroup
) -> float:
    """One update; returns the loss before it, in nats per target token. If it is not finite, nothing changes.

    Each process computes its shard of the rows; since the loss is divided by the targets of the whole batch,
    the sums over all processes are its loss and its gradient.
    """
    rate = learning_rate(cfg, state.step)
    for param_group in state.optimizer.param_groups:
        param_group["lr"] = rate
    total = torch.zeros((), device=precision.device)
    fresh = [(*micro, False) for micro in batch.micro_batches]
    for x, y, replayed in fresh + [(*micro, True) for micro in batch.replay]:
        # replayed rows are dealt from the last process on, so that each process gets as many rows in all
        x, y = (group.shard(t, backwards=replayed).to(precision.device) for t in (x, y))
        if len(x) == 0:
            continue
        with precision():
            teacher = (state.teacher.as_teacher(x),) if replayed and state.teacher else ()
            loss = forward(x, y, batch.n_targets, *teacher)
        loss.backward()  # outside of autocast: it takes the formats of the forward pass
        total += loss.detach()  # on the device: reading it would wait for each micro batch
    contrast.backward(state.model, batch, cfg.question_contrast, precision, group)
    group.all_reduce([total, *(p.grad for p in state.model.parameters())])
    norm = clip_grad_norm_(state.model.parameters(), cfg.grad_clip)
    if not (total.isfinite() and norm.isfinite()):  # clipping and AdamW would both let a NaN through
        raise FloatingPointError(
            f"step {state.step}: loss {float(total):.4g}, gradient norm {float(norm):.4g} "
            f"on rows {batch.rows.tolist()}; stopped before the update, the last saved state is whole. "
            "Mostly the rate was too high: begin anew with --fresh and a lower --learning_rate."
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)  # frees them while the next forward pass needs the room
    state.step += 1
    return float(total)


def time_steps(cfg: TrainConfig, base: Transformer) -> tuple[float, Task]:
    """Seconds of a usual step of a new run, and the task whose rows it took. The base stays as it is."""
    device = pick_precision(cfg.device, cfg.dtype).device
    teacher = make_teacher(cfg, device)
    task = make_task(cfg, base.args, teacher)
    return min(time_formats(train_step, cfg, base, task, teacher).values()), task


def score_point(cfg: TrainConfig, model: Transformer, step: int, share: float) -> choose.Point:
    """The evaluation, as in this run, of another model, such as a blend of a checkpoint with the base."""
    texts = base_text_rows(cfg, model.args)
    score = evaluate_model(model, held_out_rows(cfg, model.args), texts, cfg.eval_rows)
    return choose.Point(step, share, score.answers.loss, score.base_text)


# ---- a run ----


class Run:
    """A run in its folder: its state and data, and what is done between two steps."""

    def __init__(self, cfg: TrainConfig, log: Log, group: ProcessGroup, model: Transformer | None):
        self.cfg, self.log, self.group, self.folder = cfg, log, group, Path(cfg.out_dir)
        self.device = pick_precision(group.device, cfg.dtype).device
        self.inputs = hash_inputs(cfg.base, {"data": cfg.data_dir, "base_text": cfg.base_text_dir})
        self.state = start_or_continue(cfg, self.inputs, self.device, model)
        args = self.state.model.args
        self.tokenizer = self.open_tokenizer()
        self.task = make_task(cfg, args, self.state.teacher)
        self.held_out = held_out_rows(cfg, args)
        self.base_text = base_text_rows(cfg, args)
        self.precision = self.settle_precision()
        self.watch = Watch(self.stalled)
        self.saved_at = self.started_at = time.monotonic()

    def open_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that is given, noted in the state. Raises ValueError for another than the model's."""
        cfg, state = self.cfg, self.state
        if cfg.tokenizer is None:
            return None
        tokenizer = Tokenizer(cfg.tokenizer)
        tokenizer.check_fits(state.model.args.vocab_size, cfg.base or "the model")
        if cfg.base:
            formats.check_tokenizer(cfg.base, tokenizer)
        state.tokenizer = note_tokenizer(cfg.tokenizer)
        return tokenizer

    def settle_precision(self) -> Precision:
        """The number format of the steps: as the run began, else as it is asked for, else the faster one."""
        cfg, state, device = self.cfg, self.state, self.group.device
        if state.dtype is None:  # a run that goes on never measures: it would not end with the same weights
            measured = chooses(cfg, self.task, self.device)
            state.dtype = self.faster_format() if measured else pick_precision(device, cfg.dtype).name
        return pick_precision(device, state.dtype)

    def faster_format(self) -> str:
        seconds = time_formats(train_step, self.cfg, self.state.model, self.task, self.state.teacher)
        wins = self.group.is_main and seconds["bfloat16"] < CLEARLY * seconds["float32"]
        name = "bfloat16" if self.group.any(wins) else "float32"  # the main process's choice is that of all
        times = ", ".join(f"{1000 * taken:.0f} ms in {dtype}" for dtype, taken in seconds.items())
        self.log.say(f"a step takes {times}: computing in {name}")
        return name

    def announce(self) -> None:
        cfg, state = self.cfg, self.state
        size = sum(p.numel() for p in state.model.parameters())
        several = f", {self.group.size} processes" if self.group.size > 1 else ""
        on = f"{self.device} ({self.precision.name}){several}"
        self.log.say(
            f"{size:,} parameters on {on}, {len(self.task.rows)} rows, {len(self.held_out)} held out"
        )
        if self.precision.dtype == torch.bfloat16 and not has_bfloat16(self.device):
            self.log.say("this processor has no bfloat16 arithmetic: steps in float32 take far less time")
        went_on = f", going on from iteration {state.step}" if state.step else ""
        self.log.say(f"{cfg.max_iters} iterations = {self.task.epochs(cfg.max_iters):.1f} epochs{went_on}")
        if state.threads not in (None, threads := torch.get_num_threads()):
            self.log.say(
                f"computed with {state.threads} threads so far, now with {threads}: "
                "results may differ in the last bits"
            )
        if added := os.environ.get(environment.STARTED):
            self.log.say(f"set in the environment: {added}")

    def forward(self) -> Callable:
        """The forward pass of the steps, compiled or not; which of both is settled once."""
        cfg, state = self.cfg, self.state
        settings = (cfg.compile, state.compiled, tokens_of(cfg, self.task))
        forward, state.compiled = compilation.choose(
            state.model, *settings, self.task, self.precision, self.group, self.log.say
        )
        return forward

    def evaluate(self, train_loss: float) -> None:
        """Score held-out rows and base text, answer three questions, log all that, keep the weights."""
        state, started = self.state, time.monotonic()
        # on every process: each must know whether the run is out of patience
        score = evaluate_model(state.model, self.held_out, self.base_text, self.cfg.eval_rows)
        loss = score.answers.loss
        better = loss < state.best_loss
        if better:
            state.best_loss, state.best_step = loss, state.step
        texts = "".join(
            f", base text ({name.removeprefix('val_')}) {nats:.4f}" for name, nats in score.base_text.items()
        )
        trained = f"train loss {train_loss:.4f}, " if state.step else ""
        self.log.say(
            f"step {state.step}: {trained}val loss {loss:.4f}{texts}"
            f"{' (best)' if better and state.step else ''}"
        )
        entry = {"val_loss": loss, "terminator_loss": finite_or_none(score.answers.terminator_loss)}
        entry |= {"base_text": score.base_text} if score.base_text else {}
        if self.group.is_main:
            entry |= self.answer_questions()
            # weights alone, a third of a state: every evaluation stays to choose from in the morning
            checkpoint.save(self.folder / f"ckpt_{state.step:06d}.pt", state.pack_weights())
        self.log.record(step=state.step, **entry, eval_seconds=time.monotonic() - started)

    def answer_questions(self) -> dict[str, dict[str, str]]:
        if self.tokenizer is None:
            return {}
        samples = answers.glimpse(self.state.model, self.tokenizer)
        for question, answer in samples.items():
            self.log.say(f"    {question} {answer}")
        return {"samples": samples}

    def save(self) -> None:
        """Write the state; the one before it becomes ckpt_prev.pt."""
        if not self.group.is_main:
            return
        self.state.seconds += time.monotonic() - self.started_at
        self.started_at = time.monotonic()
        self.log.sync()  # first: after a power cut, a state without the lines of its steps would leave a gap
        save_state(self.folder, self.state.pack(self.cfg, self.inputs))
        self.saved_at = time.monotonic()

    def loop(self, stop: processes.Stop) -> None:
        """Steps, lines, evaluations and saves until max_iters or a signal."""
        cfg, state, forward = self.cfg, self.state, self.forward()
        if state.step == 0:
            self.evaluate(math.nan)  # the base: what every later evaluation is compared with
        window = Window()
        for batch in self.task.iter_batches(state.step):
            # all processes stop at the same step: one that went on alone would wait for the others for ever
            if self.group.any(state.finished(cfg) or stop.asked):
                break
            with self.watch(state.step):
                window.add(train_step(state, batch, cfg, forward, self.precision, self.group), batch.tokens)
            due = state.step % cfg.eval_interval == 0 or state.step == cfg.max_iters
            if due or state.step % cfg.log_interval == 0:
                self.line(window)
                if due:
                    self.evaluate(window.loss)
                window = Window()  # a new one, so that the evaluation's seconds do not count as the steps'
            if due or time.monotonic() - self.saved_at > cfg.save_minutes * 60:
                self.save()
        if not state.finished(cfg):  # else the last evaluation has saved
            self.save()

    def stalled(self, step: int, seconds: float, usual: float) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.log.say(
            f"{now}: iteration {step + 1} has taken {seconds:.0f} s so far, usually {usual:.1f} s: "
            "the machine slept or is busy"
        )
        self.log.record(stall=step + 1, seconds=seconds, usual=usual, time=now)

    def line(self, window: Window) -> None:
        step, rate = self.state.step, learning_rate(self.cfg, self.state.step - 1)
        line, entry = window.summary(step, self.cfg.max_iters, rate)
        self.log.say(line)
        self.log.record(**entry)


@dataclass(frozen=True)
class Result:
    step: int
    best_step: int
    best_loss: float
    exit_code: int  # 0, or 130/143 when a signal ended the run


def train(cfg: TrainConfig) -> Result:
    """Do or finish a run in cfg.out_dir, alone or as one of torchrun's processes.

    Raises config.UsageError for what the user must mend.
    """
    dashboards.check(cfg)
    group, folder = ProcessGroup(cfg.device), Path(cfg.out_dir)
    if cfg.batch_size % group.size:
        raise RefusedError(
            f"batch_size is {cfg.batch_size}, which {group.size} processes cannot share evenly; "
            "give a multiple"
        )
    steady_threads()
    model = new_model(cfg)
    if group.is_main and model is not None:
        needs.check(cfg, model, group.size)
    with (
        begun(folder, cfg.fresh) if group.is_main else contextlib.nullcontext(),
        processes.lock(folder) if group.is_main else contextlib.nullcontext(),
        processes.stop_signals() as stop,
    ):
        if group.is_main:
            remove_leftovers(folder)
        group.barrier()  # the others read the folder only when it is the main process's own
        log = Log(folder, group.is_main)
        try:
            return finish(Run(cfg, log, group, model), stop)
        finally:
            log.close()
            group.leave()


def finish(run: Run, stop: processes.Stop) -> Result:
    """Bring a run to its end or to a stop, and say which."""
    state, cfg, log = run.state, run.cfg, run.log
    if state.finished(cfg):
        best = f"best {state.best_loss:.4f} at {state.best_step}"
        log.say(f"{run.folder} is done: {state.step} iterations, {best}; nothing to do")
    else:
        if run.group.is_main:
            keep_settings(run.folder, cfg)
            log.boards = dashboards.Dashboards(cfg, run.folder)
        run.announce()
        with run.watch, environment.awake(log.say) if run.group.is_main else contextlib.nullcontext():
            run.loop(stop)
    code = 0 if state.finished(cfg) else stop.exit_code
    if code:
        log.say(f"stopped at iteration {state.step}, all saved; the same command goes on from here")
    return Result(state.step, state.best_step, state.best_loss, code)


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(TrainConfig, argv, __doc__)
    if cfg.nproc > 1 and "RANK" not in os.environ:  # torchrun sets RANK in the processes it starts
        return processes.launch(cfg.nproc, __file__, sys.argv[1:] if argv is None else argv)
    processes.watch_parent()
    try:
        with config.usage_errors(ValueError):
            return train(cfg).exit_code
    except (FloatingPointError, OSError) as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:  # ours, of an input
            raise config.UsageError(str(error)) from None
        print(config.in_words(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    config.run_main(main)
