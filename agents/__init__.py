"""The thin loop around each rule: read, fold, emit, remember. No HTTP client, no environment.

`faust_agents.py` makes Faust agents of the loops; nothing else here knows Faust.
"""
