"""Judges: what a response is. ``judge:`` in ``compsec.yaml`` names one for the whole file.

- ``refusal`` (default): built in, local, fast; full and partial refusals.
- ``keywords``: a list of phrases, global or of each prompt (``refusal_keywords``).
- ``classifier``: a Hugging Face text-classification model, pinned and verified like every model.
- ``generative``: a causal language model that is asked; ``refusal_when: safe`` for a safety judge.
- ``endpoint``: an OpenAI-compatible server; what runs behind its URL cannot be pinned.

All follow :class:`~pytest_compsec.judges.base.Judge`; :mod:`~pytest_compsec.judges.registry` makes
the one that the config names and compares it with the lock. A response that could not be judged is
None, a judge that cannot be asked raises: neither is ever an outcome.
"""
