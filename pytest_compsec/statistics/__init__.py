"""Pure functions on numbers: from paired outcomes to a verdict that keeps its promise.

- ``paired``: counts, intervals, McNemar's mid-P test and the exact non-inferiority test.
- ``proportions``: intervals of one proportion (conditional loss).
- ``power``: how many prompts a margin needs.
- ``decision``: PRESERVED, REGRESSED or INCONCLUSIVE, with every number behind it.

Nothing here knows about models, prompts or pytest, and importing a module of this room imports
neither numpy nor scipy: they are loaded by the first function that needs them.
"""

from __future__ import annotations
