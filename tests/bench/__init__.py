"""This worker beside its peers, on data as dialers make it."""
