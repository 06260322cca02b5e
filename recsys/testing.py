"""What tests of your own parts inherit: `recsys.testing.SourceTests`."""

from recsys.operations.library.conformance import SourceTests
from recsys.operations.library.example_source import MostMet as Example

__all__ = ["Example", "SourceTests"]
