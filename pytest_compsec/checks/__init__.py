"""The checks: one file per marker, each a function from a pair to a CheckResult.

Usable without pytest: ``check_safety_preserved(open_suite("compsec.yaml").pair("a-int8"))``.
"""
