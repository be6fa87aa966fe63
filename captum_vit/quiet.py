"""Silence about one package's warnings, for as long as it works for us, whatever other threads do meanwhile."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
_USERS: Counter[str] = Counter()


@contextmanager
def quiet(package: str) -> Iterator[None]:
    """Without the warnings that modules of `package` give.

    Python's own `catch_warnings` puts back all filters as it found them: where two threads leave it in another order
    than they came, what one of them ignored stays ignored. Here a filter of ours comes with the first user and goes
    with the last, and others are left alone.
    """
    pattern = rf"{re.escape(package)}(\.|$)"
    with _LOCK:
        _USERS[package] += 1
        warnings.filterwarnings("ignore", module=pattern)
    try:
        yield
    finally:
        with _LOCK:
            _USERS[package] -= 1
            if not _USERS[package]:
                ours = ("ignore", None, Warning, re.compile(pattern), 0)
                while ours in warnings.filters:
                    warnings.filters.remove(ours)  # type: ignore[attr-defined]
