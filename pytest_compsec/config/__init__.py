"""``compsec.yaml``: its schema, and loading it with ``file:line:`` errors."""
