"""The thin loop around each rule: read, fold, emit, remember. No HTTP client, no environment."""
