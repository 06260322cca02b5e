"""Training examples per second beside sentence-transformers' trainer, and what both reach.

Both tune the last two layers of the same model on the same pairs (an item and the next item of the
same user) with in-batch softmax; the peer is SentenceTransformerTrainer with
MultipleNegativesRankingLoss. Both get the same time, preparation included; quality is nDCG@10 of
held-out users' next item by a decayed mean of their history.

    python benchmarks/finetune.py DATA [--seconds 120] [--batch 256] [--out finetune.json]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cold_items import interest, interval, load, metrics, protocol, ranks

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.encode import encode_items
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tower import InterestSource, Tower
from recsys.training.finetune.fit import fit_encoder

LAYERS = 2


def next_pairs(events):
    """(item, next item of the same user) of positive events, int [p, 2]."""
    histories = events.histories()
    item, grade = histories.events.item, histories.events.grade
    owner = np.repeat(np.arange(events.n_users), np.diff(histories.offsets))
    both = (owner[1:] == owner[:-1]) & (grade[1:] > 0) & (grade[:-1] > 0)
    return np.stack([item[:-1][both], item[1:][both]], 1)


def peer(texts, pairs, arguments, folder):
    """sentence-transformers' trainer; (unit vectors, pairs per second)."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    model = SentenceTransformer(str(resolve_model("default")), device="cpu")
    model.max_seq_length = arguments.max_tokens
    backbone = model[0].auto_model
    backbone.requires_grad_(False)
    for layer in backbone.encoder.layer[-LAYERS:]:
        layer.requires_grad_(True)
    began, done = time.perf_counter(), 0

    class Stop(TrainerCallback):
        """Ends the training after the given time."""

        def on_step_end(self, args, state, control, **kwargs):
            nonlocal done
            done = state.global_step
            control.should_training_stop = time.perf_counter() - began > arguments.seconds

    order = np.random.default_rng(arguments.seed).permutation(len(pairs))
    columns = {
        "anchor": [texts[i] for i in pairs[order, 0]],
        "positive": [texts[i] for i in pairs[order, 1]],
    }
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=arguments.batch,
        learning_rate=2e-4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        num_train_epochs=50,
    )
    SentenceTransformerTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_dict(columns),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[Stop()],
    ).train()
    speed = done * arguments.batch / (time.perf_counter() - began)
    return model.encode(texts, normalize_embeddings=True), speed


def ours(texts, fit, arguments, folder):
    """This project's fit; (unit vectors, examples per second, preparation included)."""
    config = EncoderConfig(last_n=LAYERS, max_tokens=arguments.max_tokens, patience=1000)
    began = time.perf_counter()
    manifest = fit_encoder(
        fit,
        texts,
        config,
        fit_until=int(fit.time.max()),
        out_dir=folder / "ours",
        seed=arguments.seed,
        budget_seconds=arguments.seconds,
    )
    whole = manifest["learned"]["steps"] * config.batch_size / (time.perf_counter() - began)
    vectors, _ = encode_items(folder / "ours", texts, None)
    return vectors, whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts, events = load(arguments.data, EncoderConfig().template)
    removed, fit, cold, warm = protocol(events, arguments.users, arguments.seed)
    every, table = np.arange(len(texts), dtype=np.int32), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results = {
            # first, since it needs packages that the product does not
            "sentence-transformers": peer(texts, next_pairs(fit), arguments, folder),
            "ours": ours(texts, fit, arguments, folder),
        }
        for name, (vectors, speed) in results.items():
            plain = folder / f"plain-{name}"
            plain.mkdir()
            Tower.plain(vectors.shape[1], 20, len(fit.kinds)).save(plain)
            score = interest(InterestSource.open(plain, np.asarray(vectors, np.float32), 0))
            found = {"examples_per_second": speed}
            for part, tests, items in (
                ("cold", cold, every[removed]),
                ("warm", warm, every[~removed]),
            ):
                found[part] = interval(metrics(ranks(score, tests, items))["ndcg@10"])
            table[name] = found
            print(name, json.dumps(found), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
