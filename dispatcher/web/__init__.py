"""The REST API of the dispatcher."""
