"""What a night did less of than it would have on an idle machine, and how busy the machine was."""

from typing import Final

from recsys.training.cut_short import said_by
from recsys.training.night.night_context import Night
from recsys.training.night.usage import others

BUSY: Final = 0.25
"""Share of the machine's processors that others took from which it is worth a sentence (assumed)."""


def less_done(night: Night) -> tuple[str, ...]:
    """A sentence for everything that time ended: fits, trials, texts, people; of outputs of earlier nights
    that were used again too. Empty where nothing was."""
    outputs = night.runner.outputs
    said = list(dict.fromkeys(text for stage in outputs for text in said_by(stage.facts)))
    if said and (share := others(night)) >= BUSY:
        said.append(
            f"other programs took {share:.0%} of this machine's processors during the night: with them idle "
            "less would have been cut short"
        )
    return tuple(said)
