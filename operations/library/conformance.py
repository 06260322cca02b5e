"""The published conformance suite: a class to inherit in the tests of a source of your own."""

from typing import ClassVar

from recsys.retrieval import source_checks
from recsys.retrieval.fitted_source import FittableSource


class SourceTests:
    """Tests of a source of your own, for pytest; a night tries the same before it uses one.

    Examples
    --------
    In a file that pytest collects:

    >>> import recsys
    >>> class TestMine(recsys.testing.SourceTests):
    ...     source = recsys.testing.Example
    >>> TestMine().test_names_itself()
    """

    source: ClassVar[type[FittableSource]]
    """The class that is tried."""

    def test_names_itself(self) -> None:
        """It has a name, columns, params, and knows how far its data reached."""
        source_checks.names_itself(self.source)

    def test_scores_every_item(self) -> None:
        """A row per item asked for, in order; none for none."""
        source_checks.scores_every_item(self.source)

    def test_takes_a_stranger(self) -> None:
        """A user of whom nothing is known is no error."""
        source_checks.takes_a_stranger(self.source)

    def test_takes_an_unknown_item(self) -> None:
        """An item beyond the fit's is no error and has no score, also in a history."""
        source_checks.takes_an_unknown_item(self.source)

    def test_proposes_best_first(self) -> None:
        """At most as many as asked for, each once, best first, none that is blocked."""
        source_checks.proposes_best_first(self.source)

    def test_answers_alike(self) -> None:
        """The same seed gives the same source, and asking changes nothing."""
        source_checks.answers_alike(self.source)

    def test_sees_no_future(self) -> None:
        """A fit on fewer events says so."""
        source_checks.sees_no_future(self.source)

    def test_depends_on_no_more_of_the_moment_than_it_says(self) -> None:
        """At moments of one `moment_key`, where it has that method, its answers are the same."""
        source_checks.depends_on_no_more_of_the_moment_than_it_says(self.source)

    def test_is_the_same_when_opened(self) -> None:
        """What was saved answers as what was fitted."""
        source_checks.is_the_same_when_opened(self.source)

    def test_refuses_unknown_params(self) -> None:
        """A param that it does not have is refused, not dropped."""
        source_checks.refuses_unknown_params(self.source)
