"""Names in a config: a shipped function's short name, or a user's own function by dotted path."""

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def resolve(what: str, name: str, known: Mapping[str, Function]) -> Function:
    """The function that a name stands for.

    Args:
        what: Kind of thing, for the message.
        name: Key of `known`, or `package.module.function`.
        known: Shipped and registered functions.

    Raises:
        ValueError: If there is none of that name; the message lists the known ones.
    """
    if name in known:
        return known[name]
    choices = "; ".join(filter(None, (", ".join(sorted(known)), "or the dotted path of a function")))
    if "." not in name:
        raise ValueError(f"unknown {what} {name!r}; known: {choices}")
    try:
        found: Function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported ({error}); known: {choices}") from error
    if not callable(found):
        raise ValueError(f"{what} {name!r} is no function; known: {choices}")
    return found
