"""The station: a service with history, pages and learning from corrections. Needs the extra `serve`."""
