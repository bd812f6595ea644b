"""The parts of ``leakage_not_increased``: secrets in the conversation, planted canaries, verbatim
training texts, membership of the training data. One file for each, and what they share."""
