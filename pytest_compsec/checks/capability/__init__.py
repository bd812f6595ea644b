"""What ``capability_preserved`` is made of: texts and their perplexity, questions and how an answer
is matched, whole texts against broken ones, and refusals beside them."""
