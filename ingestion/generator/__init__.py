"""Synthetic logs with known truth: a test instrument and a source of load.

Users have interests over topics that items' texts tell of, and tastes that no text tells of. A
logging policy shows lists whose propensities are written down; what is looked at depends on the
place in the list, what is done with it on interest, taste, quality and price. Topics rise and
fall, items and users arrive day by day. Everything that was drawn is written beside the tables.
"""

from recsys.ingestion.generator.settings_of import settings_of
from recsys.ingestion.generator.world_settings import WorldSettings
from recsys.ingestion.generator.write import generate

__all__ = ["WorldSettings", "generate", "settings_of"]
