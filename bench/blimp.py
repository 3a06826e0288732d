"""BLiMP (Warstadt et al. 2020, arXiv 1912.00582): how often the right sentence of a minimal pair is the
likelier one.

    python -m bench.blimp --data=FOLDER --checkpoint=out/ckpt_v1_base.pt --tokenizer=data/tok4096.model

FOLDER holds the 67 .jsonl files of github.com/alexwarstadt/blimp. Of each the first 100 pairs are scored, by
summed log-likelihood behind BOS. Prints the mean over the kinds, of 100 (50 is chance), and the five worst.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from arianna.export import open_model
from arianna_data import collate
from model import Transformer
from tokenizer import BOS, IGNORE, Tokenizer

PAIRS = 100


@torch.no_grad()
def log_likelihoods(model: Transformer, tokenizer: Tokenizer, sentences: list[str]) -> torch.Tensor:
    """Summed log-likelihood of each sentence behind BOS, in nats, (N,)."""
    encoded = [[BOS, *tokenizer.encode(s)] for s in sentences]
    rows = [(torch.tensor(ids[:-1]).numpy(), torch.tensor(ids[1:]).numpy()) for ids in encoded]
    x, y = collate(rows, model.args.max_seq_len)
    return -model.nll(x, y).masked_fill(y == IGNORE, 0.0).sum(1)


def accuracy(model: Transformer, tokenizer: Tokenizer, path: Path) -> float:
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:PAIRS]]
    good, bad = (
        log_likelihoods(model, tokenizer, [p[f"sentence_{side}"] for p in pairs]) for side in ("good", "bad")
    )
    return float((good > bad).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", default="out/ckpt_v1_base.pt")
    parser.add_argument("--tokenizer", default="data/tok4096.model")
    args = parser.parse_args()
    model, tokenizer = open_model(args.checkpoint), Tokenizer(args.tokenizer)
    kinds = {path.stem: accuracy(model, tokenizer, path) for path in sorted(args.data.glob("*.jsonl"))}
    print(json.dumps({"kinds": len(kinds), "mean": 100 * sum(kinds.values()) / len(kinds)}))
    print(json.dumps(dict(sorted(kinds.items(), key=lambda kind: kind[1])[:5])))


if __name__ == "__main__":
    main()
