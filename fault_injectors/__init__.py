"""Faults: each is injected, proves from outside of itself that it bit, and heals. `registry` lists them all."""
