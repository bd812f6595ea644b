"""Attacks: triggers and what they are meant to do, gradient and query attacks on classifiers,
transforms of prompts, and the search for triggers that nobody named."""
