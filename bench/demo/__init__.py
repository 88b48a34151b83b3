"""A failover to watch: both nodes and a client, live, while the primary's host loses its power."""
