"""Who is answered as somebody new: whatever the workspace's list or the log said last."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from recsys.data_schemas import columns as c
from recsys.data_schemas.log_record import FORGET, OPT_OUT, LogRecord
from recsys.storage.opt_outs import OptOutList, Wish, wish_of


@dataclass
class OptOuts:
    """The wishes of one worker, folded from the log like its state.

    Args:
        listed: by the command line.
    """

    listed: Container[str] = frozenset()
    _said: dict[str, Wish] = field(default_factory=dict)

    def take(self, records: Iterable[LogRecord]) -> None:
        """Fold records of the log, in order; those met before do no harm."""
        for record in records:
            if record.kind == OPT_OUT:
                user, wish = wish_of(record)
                self._said[user] = wish
            elif record.kind == FORGET:
                self._said.pop(str(record.payload[c.USER_ID]), None)

    def __contains__(self, user_id: object) -> bool:
        said = self._said.get(str(user_id))
        if said is None:
            return user_id in self.listed
        listed = self.listed.get(str(user_id)) if isinstance(self.listed, OptOutList) else None
        return said.out if listed is None or said.at >= listed.at else listed.out
