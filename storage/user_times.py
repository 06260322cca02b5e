"""Files of the workspace that hold a user's id and a time each: `{"users": {id: time}}`."""

import json
from pathlib import Path

from recsys.data_schemas.errors import RecsysError


def read_user_times(file: Path, what: str, fix: str, name: str = "users") -> dict[str, str]:
    """{user id: time}; empty where there is no file.

    Args:
        file: the file.
        what: whose list it is, for the message.
        fix: what to do where it is damaged.
        name: of the list in the file; any but `users` may be missing.

    Raises:
        RecsysError: it is damaged.
    """
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
        known = lists["users"] if name == "users" else lists.get(name, {})
        return {str(user): str(at) for user, at in known.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RecsysError(
            f"the list of {what} cannot be read", where=str(file), found=str(error), fix=fix
        ) from None
