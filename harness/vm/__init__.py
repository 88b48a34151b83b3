"""The fault-tolerant VM under test: its nodes on the lab's hosts, its clients, and what they leave as evidence."""
