"""Ways of tuning the encoder beside each other, on items nobody has seen.

The protocol is that of `cold_items.py`: a tenth of the items is removed with all events on them, and each test
user's item is ranked among these. Every way learns from the same examples over the same output of the frozen
layers, which run once for all seeds, so that differences are paired and only the steps cost time:

- `head`: head and tower alone, the layers stay as they came; `layers`: the top layers after that (and what `head`
  gives);
- `beside`: negatives that share a tag with the target (the brand in `office`, genres and words in `movies`; what
  follows the last dash of a title, the platform, in `games`), which the user never acted on;
- `recalled`: negatives that the tower ranks high (`encoder.hard_negatives`);
- `fields`: each item of a step is read whole or, as often, as one of two parts: title and tags, or description;
- `agree`: the two parts of an item are trained to be nearer to each other than to those of other items;
- `words`, `words agree`: the same with two random halves of the text's tokens for parts.

    python benchmarks/encoder_settings.py DATA [--seeds 0 1 2] [--ways head beside words layers] [--steps 60]

What validation keeps is shown; `last` is what the last step left, kept or not, and `as served` what a night serves:
the model as it came where tuning is not ahead of it by more than chance, and histories asking in company where
that is. No event on a removed item is read, and no test user's item.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cold_items import BM25, USER, interest, load, metrics, most_acted_on, protocol, ranks, summary

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.text import item_text
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import ItemEncoder
from recsys.encoder.tower import InterestSource, Tower
from recsys.training.deterministic import deterministic
from recsys.training.finetune.checkpoint import Checkpoints
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.examples import make_examples
from recsys.training.finetune.freeze import frozen_layers, set_trainable
from recsys.training.finetune.keep_company import best_company
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.loop import Sampler, Trainer
from recsys.training.finetune.states import ItemStates
from recsys.training.finetune.tower_model import UserTower
from recsys.training.finetune.verdict import judge

BESIDE = 4
"""Negatives of an example that share a tag with its target."""
AGREE = 0.5
"""Weight of the loss that makes two parts of a text agree."""
AGREEING = 512
"""Items of a step whose parts are compared."""
WAYS = ("head", "beside", "recalled", "fields", "agree", "words", "words agree", "layers")


class Beside:
    """Items that share a tag, of those that training names, drawn as often as they are targets."""

    def __init__(self, tags, train, known, share):
        self.train = train
        self.tags = tags
        self.members = {}
        for item in known.tolist():
            for tag in tags[item]:
                self.members.setdefault(tag, []).append(item)
        self.members = {t: np.array(m) for t, m in self.members.items() if len(m) > BESIDE}
        self.levels = {t: np.cumsum(share[m]) for t, m in self.members.items()}

    def __call__(self, which, rng):
        events, offsets = self.train.histories.events, self.train.histories.offsets
        owner = np.searchsorted(offsets, self.train.row[which], "right") - 1
        target = self.train.target[which]
        found = np.full((len(which), BESIDE), -1, np.int64)
        for place, (user, item) in enumerate(zip(owner, target.tolist(), strict=True)):
            tags = [t for t in self.tags[item] if t in self.members]
            if not tags:
                continue
            tag = tags[rng.integers(len(tags))]
            level = rng.random(3 * BESIDE) * self.levels[tag][-1]
            drawn = self.members[tag][np.searchsorted(self.levels[tag], level)]
            acted = events.item[offsets[user] : offsets[user + 1]]
            left = np.unique(drawn[~np.isin(drawn, acted)])
            left = rng.permutation(left)[:BESIDE]
            found[place, : len(left)] = left
        return found


class BesideSampler(Sampler):
    """Draws negatives that share a tag with the target too."""

    beside = None

    def _own(self, rng, which, mine):
        own = super()._own(rng, which, mine)
        return own if self.beside is None else np.concatenate([own, self.beside(which, rng)], 1)


class PartStates(ItemStates):
    """States of which a step sees a random part of each text's tokens."""

    left_out = 0.0

    def pooled(self, items):
        if not (self.left_out and self.encoder.training):
            return super().pooled(items)
        hidden, mask = self._kept(items)
        return self.encoder.upper(hidden, without(mask, self.left_out), self.below).float()


def without(mask, share):
    """The mask with a random share of its tokens put out; the first, which is read, stays."""
    stays = torch.rand(mask.shape) >= share
    stays[:, 0] = True
    return mask * stays


class Way(Trainer):
    """A trainer that may read items in part, and make the parts agree."""

    parts = None
    """[2, n, H]: pooled states of an item's two parts."""
    agree = False

    def _loss(self, plan, encoded):
        if self.parts is None or not self.learner.training or encoded is not None:
            return super()._loss(plan, encoded)
        items = torch.from_numpy(plan.items)
        if not self.agree:
            read = torch.stack([self.states.bank[items], *self.parts[:, items]])
            turn = torch.randint(0, 4, (len(items),))  # half of them whole
            some = read[(turn - 1).clamp(min=0), torch.arange(len(items))]
            return super()._loss(replace(plan, encoded=plan.items), some)
        loss = super()._loss(plan, None)
        few = items[torch.randperm(len(items))[:AGREEING]]
        few = few[(self.parts[0, few] != self.parts[1, few]).any(1)]
        if len(few) < 2:
            return loss
        one, two = (self.learner.encoder.finish(part[few]) for part in self.parts)
        logits, same = one @ two.T * self.learner.scale.exp(), torch.arange(len(few))
        apart = nn.functional.cross_entropy(logits, same) + nn.functional.cross_entropy(
            logits.T, same
        )
        return loss + AGREE * apart / 2


def attributes(folder):
    """(tags of each item, its title and tags as one text), items in the order of their ids."""
    rows = duckdb.sql(
        f"select item_id, title, tags, category from '{folder}/items.parquet' order by 1"
    ).fetchall()
    tags = [set(row[2] or ()) | ({row[3]} if row[3] else set()) for row in rows]
    if not any(tags):
        tags = [{row[1].rsplit(" - ", 1)[1]} if " - " in (row[1] or "") else set() for row in rows]
    return tags, [item_text("{title}. {tags}. {category}", *row[1:], None) for row in rows]


def read(texts, config, keep):
    """States of texts [n] with the frozen layers' output, from the files of `keep` where they are."""
    base = resolve_model(config.model)
    encoder, tokenizer = ItemEncoder.open(base), TextTokenizer.open(base, config.max_tokens)
    tokens, _ = tokenizer.all_of(texts)
    set_trainable(encoder, config)
    states = PartStates(
        encoder,
        tokens,
        tokenizer.pad,
        frozen_layers(encoder, config),
        torch.device("cpu"),
        Path(tempfile.gettempdir()),
    )
    flat = keep and Path(f"{keep}.flat.npy")
    bank = keep and Path(f"{keep}.bank.npy")
    if keep and bank.exists():
        states._flat = np.load(flat, mmap_mode="r")
        states.bank = torch.from_numpy(np.load(bank))
        states._ready[:] = True
        return states
    began = time.perf_counter()
    states.prepare(np.arange(len(texts)))
    print(f"{len(texts)} texts read in {time.perf_counter() - began:.0f} s", flush=True)
    if keep:
        np.save(flat, states._flat)
        np.save(bank, states.bank.numpy())
    return states


@torch.no_grad()
def halves(states):
    """[2, n, H]: pooled states of two random halves of each text's tokens."""
    torch.manual_seed(0)
    states.left_out = 0.5
    states.encoder.train()
    parts = torch.empty(2, *states.bank.shape)
    for chunk in states.chunks(np.arange(len(states.bank))):
        for part in parts:
            part[torch.from_numpy(chunk)] = states.pooled(chunk)
    states.left_out = 0.0
    states.encoder.eval()
    return parts


@torch.no_grad()
def fields(states, short, config):
    """[2, n, H]: pooled states of each text up to the end of title and tags (`short`), and behind it; of the
    whole text where nothing is behind."""
    tokenizer = TextTokenizer.open(resolve_model(config.model), config.max_tokens)
    begun = torch.from_numpy(tokenizer.all_of(short)[0].lengths - 1)  # without the closing token
    parts = torch.empty(2, *states.bank.shape)
    for chunk in states.chunks(np.arange(len(states.bank))):
        hidden, mask = states._kept(chunk)
        end = begun[torch.from_numpy(chunk)][:, None]
        place = torch.arange(mask.shape[1])
        whole = mask.sum(1, keepdim=True) <= end + 1
        for part, seen in zip(parts, (place < end, (place == 0) | (place >= end)), strict=True):
            read = mask * (seen | whole)
            part[torch.from_numpy(chunk)] = states.encoder.upper(hidden, read, states.below)
    return parts


@deterministic()
def tuned(way, states, bank, parts, tags, fit, split, config, arguments, seed):
    """{name: score function} of what a way's validation keeps and of what its last step left, and how it
    went."""
    began = time.process_time()
    encoder = ItemEncoder.open(resolve_model(config.model))
    set_trainable(encoder, config)
    states.take(encoder)
    states.bank = bank.clone()
    if way == "recalled":
        config = config.model_copy(update={"hard_negatives": BESIDE})
    plain = Tower.plain(encoder.dimension, config.history_length, split.train.n_kinds)
    torch.manual_seed(seed)
    trainer = Way(
        Learner(encoder, UserTower(plain)),
        states,
        split,
        config,
        seed=seed,
        checkpoints=Checkpoints(None, ""),
        group=Group(),
        on_metrics=None,
    )
    trainer.sampler.__class__ = BesideSampler
    if way == "beside":
        sampler = trainer.sampler
        sampler.beside = Beside(tags, split.train, split.known, sampler.item_q)
    trainer.parts = parts.get({"agree": "fields", "words agree": "words"}.get(way, way))
    trainer.agree = way.endswith("agree")
    every, until = np.arange(len(bank)), int(fit.time.max())

    @torch.no_grad()
    def source(tower, company=None):
        encoder.eval()
        vectors = encoder.finish(states.bank).numpy()
        return interest(replace(InterestSource.of(tower, vectors, until), company=company))

    def fitted():
        return trainer.learner.tower.freeze_to((1.0, 0.0))

    trainer.check("head")
    trainer.start_head()
    closed = trainer.progress.best
    trainer.run("head", 0, config.head_steps, encode=False, deadline=None)
    made = {}
    progress = trainer.progress
    if way == "layers":
        trainer.begin_layers()
        made["head"] = source(fitted())
        trainer.run("layers", progress.step, arguments.steps, encode=True, deadline=None)
        states.refresh(every)
    made[f"{way}, last"] = source(fitted())
    trainer.checkpoints.restore_best(trainer.learner)
    if way == "layers":
        states.refresh(every)
    made[way] = source(fitted())
    verdict = judge(progress.first, progress.gains, split.asker)
    if not verdict.helps:
        trainer.checkpoints.restore_first(trainer.learner)
        states.bank = bank.clone()
    company, beside = best_company(trainer, split, fit.histories())
    made[f"{way}, as served"] = source(fitted() if verdict.helps else plain, company)
    facts = {
        "closed_form": progress.head,
        "validation of the closed form": closed,
        "validation": progress.best,
        "best_step": progress.best_step,
        "steps": progress.step,
        "layers_from": progress.layers_from,
        "verdict": verdict.sentence(),
        "company": None if company is None else company.share,
        "validation in company": beside.tuned,
        "processor seconds": round(time.process_time() - began),
    }
    print(f"  {way}: {facts}", flush=True)
    return made, facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--users", type=int, default=1500, help="test users at most")
    parser.add_argument("--items", type=int, help="keep only so many items")
    parser.add_argument("--encoder", type=json.loads, default={}, help="settings, as JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=["head"], choices=WAYS)
    parser.add_argument("--steps", type=int, default=60, help="of the layers, at most")
    parser.add_argument("--warm", action="store_true", help="items with events too")
    parser.add_argument("--keep", type=Path, help="start of files for the frozen layers' output")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = EncoderConfig(**arguments.encoder)
    texts, events = load(arguments.data, config.template)
    tags, short = attributes(arguments.data)
    if arguments.items:
        texts, events, top = most_acted_on(texts, events, arguments.items)
        tags, short = [tags[i] for i in top], [short[i] for i in top]
    states = read(texts, config, arguments.keep)
    print(f"median text: {int(np.median(states.lengths))} tokens", flush=True)
    bank, parts = states.bank.clone(), {}
    if {"fields", "agree"} & set(arguments.ways):
        parts["fields"] = fields(states, short, config)
    if any(way.startswith("words") for way in arguments.ways):
        parts["words"] = halves(states)
    found, learned = {}, {}
    until = int(events.time.max())
    frozen = nn.functional.normalize(bank, dim=-1).numpy()
    for seed in arguments.seeds:
        removed, fit, cold, warm = protocol(events, arguments.users, seed)
        print(f"seed {seed}: {removed.sum()} items removed, {len(cold)} cold users", flush=True)
        split = make_examples(
            fit, fit_until=int(fit.time.max()), places=config.history_length, seed=seed
        )
        plain = Tower.plain(frozen.shape[1], config.history_length, len(fit.kinds))
        scores = {"frozen": interest(InterestSource.of(plain, frozen, until)), "bm25": BM25(texts)}
        for way in arguments.ways:
            made, learned[f"{seed} {way}"] = tuned(
                way, states, bank, parts, tags, fit, split, config, arguments, seed
            )
            scores |= made
        every = np.arange(len(texts), dtype=np.int32)
        asked = [("cold", cold, every[removed])]
        if arguments.warm:
            asked.append(("warm", warm, every[~removed]))
        for part, tests, items in asked:
            for name, score in scores.items():
                values = metrics(ranks(score, tests, items))
                user = np.array([test[3] for test in tests])
                found.setdefault((part, name), []).append(values | {USER: user})
                print(f"  {part} {name:<24}nDCG@10 {values['ndcg@10'].mean():.4f}", flush=True)
    others = [name for name in ("frozen", "bm25", "head") if ("cold", name) in found]
    table = summary(found, others)
    if arguments.out:
        content = {"table": table, "learned": learned, "settings": vars(arguments)}
        arguments.out.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
