"""What everything that can be fitted shares: params as scikit-learn has them, and a word on progress."""

import inspect
import sys
from typing import Any, Self

from recsys.data_schemas.errors import UsageError
from recsys.storage.progress import Reporter


class Params:
    """`get_params` and `set_params` over the arguments of `__init__`, each kept under its name."""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters if name != "params"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Params by name, as `__init__` takes them.

        Parameters
        ----------
        deep
            Taken for scikit-learn's sake; there is nothing within.
        """
        del deep
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Change params by name; what was fitted before stays until `fit` is called again.

        Raises
        ------
        UsageError
            There is no such param.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise UsageError(
                    "there is no such param",
                    where=type(self).__name__,
                    found=name,
                    expected=", ".join(known),
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        changed = {n: v for n, v in self.get_params().items() if v != defaults.get(n)}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"


def not_fitted(model: object) -> UsageError:
    """What asking before fitting says."""
    return UsageError(
        "nothing was fitted yet",
        where=type(model).__name__,
        fix="model.fit(train)",
    )


def reporter(verbose: bool) -> Reporter:
    """Progress on standard error: one moving line on a terminal and in a notebook."""
    notebook = "ipykernel" in sys.modules
    return Reporter(quiet=not verbose, moving=True if notebook else None)
