"""Tasks of lm-evaluation-harness on both models of a pair, paired document by document.

From pinned task files (:mod:`.files`) to the harness's task objects (:mod:`.opening`), to what it
says of each document for each model (:mod:`.running`, :mod:`.samples`), to paired scores
(:mod:`.metrics`) and one estimate for each task (:mod:`.deciding`). Only ``opening`` and
``running`` import the harness.
"""
