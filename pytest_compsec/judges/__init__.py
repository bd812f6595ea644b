"""Judges: what a response is. ``refusal`` is built in; others follow ``base.Judge``."""
