"""Measurements of a real pair in a real lab, and the demonstration of a failover."""
