"""The pytest plugin: options, collection, fixtures, assertion output; wiring only, no statistics, no editing.

Every module here is light to import; torch, transformers, scipy and the rest of editguard are imported when the
first test that uses an edited model is collected or set up, and never in an unrelated run.
"""
