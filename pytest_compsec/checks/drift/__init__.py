"""Drift: what the accepted baseline holds, what today's run finds, and why they differ."""
