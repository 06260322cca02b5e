"""`recsys fit-encoder`: the encoder's fit apart from any workspace, in one process or several."""

import argparse
import os
from pathlib import Path

from recsys.data_schemas.errors import ExitCode, UsageError


def run_fit_encoder(args: argparse.Namespace) -> int:
    """Fit from a folder of inputs; of several processes the first writes and speaks."""
    from recsys.operations.own_inputs import ALL, refuse_own_inputs
    from recsys.storage.progress import Reporter
    from recsys.training.finetune.distributed import Group
    from recsys.training.finetune.fit_inputs import ENCODER, FitInputs

    inputs, out = FitInputs.read(Path(args.inputs)), Path(args.out)
    refuse_own_inputs(out, "--out", None, None, {"--inputs": args.inputs}, writes=ALL)
    group = Group()
    try:
        reporter = Reporter(quiet=not group.first)
        reporter.say(
            f"fit: {len(inputs.interactions):,} events, {len(inputs.texts):,} texts, "
            f"{group.size} process{'es' if group.size > 1 else ''}"
        )
        manifest = inputs.fit_into(out, on_untuned=reporter.warn)
    finally:
        group.leave()
    if manifest is not None:
        print(out / ENCODER)
        for row in manifest["learned"].get("compared", ()):
            print(f"  {row['name']}: validation nDCG {row['ndcg']:.4f}")
    return ExitCode.DONE


def refuse_many_processes(args: argparse.Namespace) -> None:
    """Under torchrun a command would run as often as there are processes.

    Raises:
        UsageError: this one is not made for it.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if several and not getattr(args, "many_processes", False):
        raise UsageError(
            f"`recsys {args.command}` runs in one process",
            where="torchrun",
            found=f"{os.environ['WORLD_SIZE']} processes",
            expected="torchrun … -m recsys fit-encoder --inputs DIR --out DIR",
            fix="`recsys train encoder --inputs-only DIR` writes what the fit reads, and"
            " `recsys train encoder --fitted DIR` takes it into use",
        )
