"""A fine-tune by TRL's SFTTrainer, as its users write one: the peer of bench.time_to_quality. Loads nothing
of ours.

    python bench/sft.py MODEL FOLDER_OF_DATA OUT RATE EPOCHS
"""

from __future__ import annotations

import sys


def main(model: str, data: str, out: str, rate: str, epochs: str) -> int:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset(
        "json",
        data_files={split: f"{data}/{split}.jsonl" for split in ("train", "val")},
        cache_dir=f"{out}/cache",
    )
    settings = SFTConfig(
        output_dir=out,
        learning_rate=float(rate),
        num_train_epochs=int(epochs),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        max_length=256,
        completion_only_loss=True,
        bf16=False,  # its default, which it refuses where there is no GPU
        gradient_checkpointing=False,  # its default, for models that do not fit, takes a third more time
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # a share of all, as ours
        weight_decay=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
    )
    SFTTrainer(model=model, args=settings, train_dataset=rows["train"], eval_dataset=rows["val"]).train()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
