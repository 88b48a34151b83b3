"""The suite: each scenario arranges, injects and states its promise; the oracles judge every one of them."""
