"""Load generators that run on the client host and keep a history of all that they did and saw."""
