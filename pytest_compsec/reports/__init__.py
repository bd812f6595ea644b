"""CheckResults in, text out: terminal table, failure messages, JSON."""
