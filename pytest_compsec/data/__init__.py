"""Data that the package brings for checks other than the refusal checks, written for this project.

``misconceptions`` (multiple-choice questions), ``facts`` (questions with a short exact answer),
``prose`` (texts for perplexity), ``secrets`` (confidential values that must not be repeated).
"""

from pytest_compsec.data.builtin import builtin_data_names as builtin_data_names
from pytest_compsec.data.builtin import read_builtin_data as read_builtin_data
from pytest_compsec.data.file import DataFile as DataFile
