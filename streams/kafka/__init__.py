"""A room for aiokafka: what of it is patched, spoken by hand or read apart from the group."""
