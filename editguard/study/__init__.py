"""Experiments over methods: one model, one data set, single edits, batches and sequences, every value kept.

From Python: `editguard.study.plan.Plan`, `editguard.study.running.run`, `editguard.study.summary.summarised`. Nothing
is imported here, because the command line declares its options before it knows which command it will run.
"""
